//! The four axes.

use graph::OpKind;
use std::fmt;

/// The op list of a kernel in its pattern's order: one op for a primitive,
/// several for a composite. Written `add+rms_norm`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Layer(pub Vec<OpKind>);

impl Layer {
    pub fn is_composite(&self) -> bool {
        self.0.len() > 1
    }

    /// The folder of a tree that holds this layer's kernels.
    pub fn folder(&self) -> String {
        let names: Vec<_> = self.0.iter().map(|k| k.name()).collect();
        names.join("__")
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, k) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("+")?;
            }
            f.write_str(k.name())?;
        }
        Ok(())
    }
}

/// The format in which a kernel multiplies its activations: part of its numbers,
/// so the oracle implements every one. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    F32,
    /// Weights, too, where their scheme is finer: bf16 units take nothing else.
    Bf16,
    F16,
    /// int8 with one f32 scale for each 32 elements of a row.
    Q8_32,
    /// int8 with one f32 scale for each 256 elements of a row.
    Q8_256,
}

impl Act {
    pub const fn name(self) -> &'static str {
        match self {
            Act::F32 => "f32",
            Act::Bf16 => "bf16",
            Act::F16 => "f16",
            Act::Q8_32 => "q8_32",
            Act::Q8_256 => "q8_256",
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What identifies a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub backend: &'static str,
    pub layer: Layer,
    /// Storage scheme of the stored operands; a list, comma separated and in
    /// pattern order, where they differ.
    pub quant: String,
    pub variant: &'static str,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}/{}",
            self.backend, self.layer, self.quant, self.variant
        )
    }
}
