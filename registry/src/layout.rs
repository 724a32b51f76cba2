//! Weight layouts: how a tree arranges a stored matrix for its kernels.

use crate::scheme::Scheme;

/// The file's own order: row n holds its K elements, rows follow each other.
/// Every scheme has it and nothing needs packing.
pub const ROW_MAJOR: &str = "row_major";

/// A stored matrix `[n, k]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightShape {
    pub scheme: Scheme,
    pub n: usize,
    pub k: usize,
}

impl WeightShape {
    pub fn row_bytes(&self) -> Option<u64> {
        self.scheme.row_bytes(self.k)
    }

    pub fn bytes(&self) -> Option<u64> {
        self.row_bytes()?.checked_mul(self.n as u64)
    }
}

/// A named arrangement that a tree packs to, once, while loading. Rows are
/// packed in panels that do not depend on each other, so that a loader can pack
/// in parallel, in any order, and stage one panel at a time.
pub struct WeightLayout {
    pub name: &'static str,
    /// The packed scheme's sources.
    pub schemes: &'static [&'static str],
    /// Rows of a panel; the last panel is padded.
    pub panel_rows: usize,
    /// Packed bytes of one panel. `None` if this shape cannot be packed.
    pub panel_bytes: fn(&WeightShape) -> Option<u64>,
    /// Packs rows `[first, first + rows)` given as row-major `src` into the
    /// panel `dst`, padding included.
    pub pack: fn(shape: &WeightShape, rows: usize, src: &[u8], dst: &mut [u8]),
}

inventory::collect!(WeightLayout);

impl WeightLayout {
    pub fn find(name: &str) -> Option<&'static WeightLayout> {
        inventory::iter::<WeightLayout>().find(|l| l.name == name)
    }

    pub fn panels(&self, shape: &WeightShape) -> usize {
        shape.n.div_ceil(self.panel_rows)
    }

    /// Packed bytes of the whole matrix.
    pub fn bytes(&self, shape: &WeightShape) -> Option<u64> {
        if !self.schemes.contains(&shape.scheme.0) {
            return None;
        }
        (self.panel_bytes)(shape)?.checked_mul(self.panels(shape) as u64)
    }
}
