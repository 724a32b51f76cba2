//! Stored elements as f32.

use crate::codec::{CodecError, decode_row};
use crate::tensors::TensorRef;

impl TensorRef<'_> {
    /// The elements as f32, exactly, blocks decoded; `None` for types that are not real numbers of
    /// at most 32 bits. Meant for small tensors: the result is allocated whole.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        // Length and bytes fit each other by the checks of the store.
        let mut out = vec![0.0; self.info.elements()];
        self.decode_into(&mut out).ok().map(|()| out)
    }

    /// Decodes the elements, outermost dimension first, into `out`, which holds exactly as many.
    pub fn decode_into(&self, out: &mut [f32]) -> Result<(), CodecError> {
        decode_row(self.info.stored, &self.bytes(), out)
    }
}
