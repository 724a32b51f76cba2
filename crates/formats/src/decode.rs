//! Stored elements as f32.

use half::{bf16, f16};

use crate::dtype::StoredType;
use crate::tensors::TensorRef;

impl TensorRef<'_> {
    /// The elements as f32, exactly; `None` for types that are not floating point of at most 32
    /// bits. Meant for small tensors: the result is allocated whole.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let two = |f: fn([u8; 2]) -> f32| {
            let pairs = self.bytes.chunks_exact(2);
            pairs.map(|b| f([b[0], b[1]])).collect()
        };
        match self.info.stored {
            StoredType::F32 => Some(
                self.bytes
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
            ),
            StoredType::F16 => Some(two(|b| f16::from_le_bytes(b).to_f32())),
            StoredType::BF16 => Some(two(|b| bf16::from_le_bytes(b).to_f32())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::TensorInfo;

    fn decoded(stored: StoredType, bytes: &[u8]) -> Option<Vec<f32>> {
        let info = TensorInfo {
            name: "w".into(),
            shape: vec![bytes.len() / stored.block_bytes()],
            stored,
            file: 0,
            offset: 0,
            bytes: bytes.len() as u64,
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
}
