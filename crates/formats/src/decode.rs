//! Stored elements as f32.

use crate::codec::{CodecError, decode_row};
use crate::tensors::{RowOrder, TensorRef};

impl TensorRef<'_> {
    /// The elements as f32, exactly, blocks decoded; `None` for types that are not real numbers of
    /// at most 32 bits. Meant for small tensors: the result is allocated whole.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        // Length and bytes fit each other by the check in `TensorStore::new`.
        let mut out = vec![0.0; self.info.elements()];
        self.decode_into(&mut out).ok().map(|()| out)
    }

    /// Decodes the elements, outermost dimension first, into `out`, which holds exactly as many.
    pub fn decode_into(&self, out: &mut [f32]) -> Result<(), CodecError> {
        decode_row(self.info.stored, self.bytes, out)?;
        if self.info.order != RowOrder::Plain {
            let rows = self.info.shape.first().copied().unwrap_or(1);
            let stored = out.to_vec();
            let width = stored.len() / rows;
            for (row, out) in out.chunks_exact_mut(width).enumerate() {
                out.copy_from_slice(&stored[self.info.order.source(row) * width..][..width]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::dtype::StoredType;
    use crate::tensors::TensorInfo;

    fn decoded(stored: StoredType, bytes: &[u8]) -> Option<Vec<f32>> {
        let info = TensorInfo {
            name: "w".into(),
            shape: vec![bytes.len() / stored.block_bytes()],
            stored,
            file: 0,
            offset: 0,
            bytes: bytes.len() as u64,
            order: RowOrder::Plain,
        };
        TensorRef { info: &info, bytes }.to_f32()
    }

    #[test]
    fn floats_are_exact() {
        let values = [0.0f32, -1.5, 0.15625, 65504.0];
        let f32s: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let f16s: Vec<u8> = values
            .iter()
            .flat_map(|&v| f16::from_f32(v).to_le_bytes())
            .collect();
        assert_eq!(decoded(StoredType::F32, &f32s).unwrap(), values);
        assert_eq!(decoded(StoredType::F16, &f16s).unwrap(), values);
        assert_eq!(
            decoded(StoredType::BF16, &[0x20, 0xC0, 0x80, 0x3F]).unwrap(),
            [-2.5, 1.0]
        );
        assert_eq!(decoded(StoredType::I32, &f32s), None);
    }

    #[test]
    fn vectors_come_in_their_own_order() {
        let info = TensorInfo {
            name: "b".into(),
            shape: vec![4],
            stored: StoredType::F16,
            file: 0,
            offset: 0,
            bytes: 8,
            order: RowOrder::Interleaved { head: 4 },
        };
        let bytes: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0]
            .iter()
            .flat_map(|&v| f16::from_f32(v).to_le_bytes())
            .collect();
        let tensor = TensorRef {
            info: &info,
            bytes: &bytes,
        };
        assert_eq!(tensor.to_f32().unwrap(), [1.0, 3.0, 2.0, 4.0]);
    }
}
