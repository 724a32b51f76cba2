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
    /// Of caches alone: a head's elements are whole numbers of −127..=127 times a
    /// scale, its largest magnitude / 127 rounded to f16. Numbers are rounded to
    /// the nearest, ties to even; a head of zeros has the scale 0.
    pub const INT8_KV: Scheme = Scheme("int8_kv");

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

    /// Bytes of the scale that a cache keeps for each head and token, 0 without one.
    pub fn scale_bytes(self) -> usize {
        self.desc().map_or(0, |d| d.scale_bytes)
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
    /// See [`Scheme::scale_bytes`]; [`CacheView`](crate::CacheView) says where
    /// the scales lie.
    pub scale_bytes: usize,
}

impl SchemeDesc {
    pub const fn new(name: &'static str, block: usize, block_bytes: usize) -> Self {
        SchemeDesc {
            name,
            block,
            block_bytes,
            scale_bytes: 0,
        }
    }

    const fn with_scale(mut self, bytes: usize) -> Self {
        self.scale_bytes = bytes;
        self
    }
}

inventory::collect!(SchemeDesc);

inventory::submit! { SchemeDesc::new("f32", 1, 4) }
inventory::submit! { SchemeDesc::new("f16", 1, 2) }
inventory::submit! { SchemeDesc::new("bf16", 1, 2) }
inventory::submit! { SchemeDesc::new("u32", 1, 4) }

// The block schemes of GGUF files, which say what each byte means.
inventory::submit! { SchemeDesc::new("q4_0", 32, 18) }
inventory::submit! { SchemeDesc::new("q4_1", 32, 20) }
inventory::submit! { SchemeDesc::new("q5_0", 32, 22) }
inventory::submit! { SchemeDesc::new("q5_1", 32, 24) }
inventory::submit! { SchemeDesc::new("q8_0", 32, 34) }
inventory::submit! { SchemeDesc::new("q2_k", 256, 84) }
inventory::submit! { SchemeDesc::new("q3_k", 256, 110) }
inventory::submit! { SchemeDesc::new("q4_k", 256, 144) }
inventory::submit! { SchemeDesc::new("q5_k", 256, 176) }
inventory::submit! { SchemeDesc::new("q6_k", 256, 210) }
inventory::submit! { SchemeDesc::new("iq4_nl", 32, 18) }
inventory::submit! { SchemeDesc::new("iq4_xs", 256, 136) }
inventory::submit! { SchemeDesc::new("mxfp4", 32, 17) }

// ParoQuant, put into blocks when it is read.
inventory::submit! { SchemeDesc::new("w4_paro", 128, 68) }

// Caches.
inventory::submit! { SchemeDesc::new("int8_kv", 1, 1).with_scale(2) }
