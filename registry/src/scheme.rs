//! Storage schemes: how the numbers of a weight or a cache are kept.

use std::fmt;

/// Name of a storage scheme, such as `bf16`. Any crate may define one by
/// registering a [`SchemeDesc`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scheme(pub &'static str);

impl Scheme {
    pub const F32: Scheme = Scheme("f32");
    pub const F16: Scheme = Scheme("f16");
    pub const BF16: Scheme = Scheme("bf16");
    pub const U32: Scheme = Scheme("u32");

    /// The registered scheme of that name.
    pub fn find(name: &str) -> Option<Scheme> {
        inventory::iter::<SchemeDesc>()
            .find(|d| d.name == name)
            .map(|d| Scheme(d.name))
    }

    pub fn desc(self) -> Option<&'static SchemeDesc> {
        inventory::iter::<SchemeDesc>().find(|d| d.name == self.0)
    }

    /// Bytes of `elements` elements of one row; `None` for an unknown scheme, a
    /// partial block or overflow.
    pub fn row_bytes(self, elements: usize) -> Option<u64> {
        let d = self.desc()?;
        if !elements.is_multiple_of(d.block) {
            return None;
        }
        (elements as u64 / d.block as u64).checked_mul(d.block_bytes as u64)
    }
}

impl fmt::Debug for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Size of a storage scheme's blocks.
pub struct SchemeDesc {
    pub name: &'static str,
    /// Elements of a block, consecutive along a row.
    pub block: usize,
    pub block_bytes: usize,
}

inventory::collect!(SchemeDesc);

inventory::submit! { SchemeDesc { name: "f32", block: 1, block_bytes: 4 } }
inventory::submit! { SchemeDesc { name: "f16", block: 1, block_bytes: 2 } }
inventory::submit! { SchemeDesc { name: "bf16", block: 1, block_bytes: 2 } }
inventory::submit! { SchemeDesc { name: "u32", block: 1, block_bytes: 4 } }

// The block schemes of GGUF files, which say what each byte means.
inventory::submit! { SchemeDesc { name: "q4_0", block: 32, block_bytes: 18 } }
inventory::submit! { SchemeDesc { name: "q4_1", block: 32, block_bytes: 20 } }
inventory::submit! { SchemeDesc { name: "q5_0", block: 32, block_bytes: 22 } }
inventory::submit! { SchemeDesc { name: "q5_1", block: 32, block_bytes: 24 } }
inventory::submit! { SchemeDesc { name: "q8_0", block: 32, block_bytes: 34 } }
inventory::submit! { SchemeDesc { name: "q2_k", block: 256, block_bytes: 84 } }
inventory::submit! { SchemeDesc { name: "q3_k", block: 256, block_bytes: 110 } }
inventory::submit! { SchemeDesc { name: "q4_k", block: 256, block_bytes: 144 } }
inventory::submit! { SchemeDesc { name: "q5_k", block: 256, block_bytes: 176 } }
inventory::submit! { SchemeDesc { name: "q6_k", block: 256, block_bytes: 210 } }
inventory::submit! { SchemeDesc { name: "iq4_nl", block: 32, block_bytes: 18 } }
inventory::submit! { SchemeDesc { name: "iq4_xs", block: 256, block_bytes: 136 } }
inventory::submit! { SchemeDesc { name: "mxfp4", block: 32, block_bytes: 17 } }

// ParoQuant, put into blocks when it is read.
inventory::submit! { SchemeDesc { name: "w4_paro", block: 128, block_bytes: 68 } }
