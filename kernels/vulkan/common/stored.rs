//! Storage schemes: the shaders' numbers for them, and where rows of matrices lie.

use crate::common::grouped::{self, GROUPED};
use registry::{ROW_MAJOR, Scheme, TensorRef, WeightShape};

/// Gives `$with` every scheme that weights come in: a name for it, its name in the
/// registry, its number in the shaders, the layouts in which kernels take it. A new
/// scheme is one more line here, its form in [`grouped`] and in `blocks.glsl`.
macro_rules! for_each_scheme {
    ($with:ident) => {
        $crate::common::stored::for_each_block_scheme! {
            $with
            F32 "f32" 0 PLAIN,
            F16 "f16" 1 PLAIN,
            BF16 "bf16" 2 PLAIN,
        }
    };
}
pub(crate) use for_each_scheme;

/// As [`for_each_scheme`], the block schemes alone.
macro_rules! for_each_block_scheme {
    ($with:ident $($others:tt)*) => {
        $with! {
            $($others)*
            Q8_0 "q8_0" 3 BLOCKS,
            Q4_0 "q4_0" 4 BLOCKS,
            Q4_1 "q4_1" 5 BLOCKS,
            Q5_0 "q5_0" 6 BLOCKS,
            Q5_1 "q5_1" 7 BLOCKS,
            Q2_K "q2_k" 8 BLOCKS,
            Q3_K "q3_k" 9 BLOCKS,
            Q4_K "q4_k" 10 BLOCKS,
            Q5_K "q5_k" 11 BLOCKS,
            Q6_K "q6_k" 12 BLOCKS,
            IQ4_NL "iq4_nl" 13 BLOCKS,
            IQ4_XS "iq4_xs" 14 BLOCKS,
            MXFP4 "mxfp4" 15 BLOCKS,
            W4_PARO "w4_paro" 16 BLOCKS,
        }
    };
}
pub(crate) use for_each_block_scheme;

/// Registers what the `of` beside it makes of each scheme and its layouts.
macro_rules! register_schemes {
    ($($name:ident $scheme:literal $number:literal $layouts:ident,)+) => {
        $(static $name: Plain = of(&[$scheme], $crate::common::stored::$layouts);)+
        registry::register!($($name),+);
    };
}
pub(crate) use register_schemes;

/// Layouts of plain numbers and of block schemes.
pub const PLAIN: &[&str] = &[ROW_MAJOR];
pub const BLOCKS: &[&str] = &[GROUPED];

macro_rules! numbers {
    ($($name:ident $scheme:literal $number:literal $layouts:ident,)+) => {
        /// The shaders' number for a scheme.
        pub fn scheme_constant(scheme: Scheme) -> Result<u32, String> {
            match scheme.0 {
                $($scheme => Ok($number),)+
                // Of caches alone: see `scaled.glsl`.
                "int8_kv" => Ok(17),
                other => Err(format!("no shader decodes {other}")),
            }
        }
    };
}
for_each_scheme!(numbers);

/// Whether numbers are stored one by one.
pub const fn is_plain(scheme: Scheme) -> bool {
    is_plain_name(scheme.0)
}

pub const fn is_plain_name(scheme: &str) -> bool {
    matches!(scheme.as_bytes(), b"f32" | b"f16" | b"bf16")
}

/// Bytes of an element of a plain scheme or a cache.
pub fn element_bytes(scheme: Scheme) -> u64 {
    match scheme {
        Scheme::F32 => 4,
        Scheme::INT8_KV => 1,
        _ => 2,
    }
}

/// A stored matrix `[n, k]` as shaders count in it.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    pub n: usize,
    pub k: usize,
    /// Bytes of what offsets count: elements of plain schemes, words of blocks.
    pub unit: u64,
    /// Bytes of a row.
    pub row: u64,
    plain: bool,
}

impl Matrix {
    pub fn of(t: &TensorRef) -> Result<Matrix, String> {
        let &[n, k] = t.shape.as_slice() else {
            return Err(format!("a matrix [N, K] was expected, not {:?}", t.shape));
        };
        let plain = is_plain(t.scheme);
        let unit = if plain { element_bytes(t.scheme) } else { 4 };
        let shape = WeightShape {
            scheme: t.scheme,
            n,
            k,
        };
        let row = match plain {
            true => Some(k as u64 * unit),
            false => grouped::row_bytes(&shape),
        };
        let row = row.ok_or_else(|| format!("{k} elements are no whole blocks of {}", t.scheme))?;
        Ok(Matrix {
            n,
            k,
            unit,
            row,
            plain,
        })
    }

    /// Units of a row.
    pub fn stride(&self) -> usize {
        (self.row / self.unit) as usize
    }

    /// Whether every row of the weights, whose first ones begin at `weights`, and of
    /// x (its first element and stride) begins at a 16-byte piece and ends with one.
    /// An error if blocks do not lie so.
    pub fn is_aligned(&self, weights: &[usize], x: (usize, usize)) -> Result<bool, String> {
        let piece = (16 / self.unit) as usize;
        let matrix =
            self.stride().is_multiple_of(piece) && weights.iter().all(|w| w.is_multiple_of(piece));
        if !self.plain && !matrix {
            return Err("a packed matrix must begin at a multiple of 16 bytes".into());
        }
        Ok(matrix && x.0.is_multiple_of(4) && x.1.is_multiple_of(4))
    }
}
