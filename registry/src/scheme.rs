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
