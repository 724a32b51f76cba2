//! What model files store.

/// Element type of a stored tensor. Append-only: the order is part of no file, but code numbers
/// derived from it must stay stable. The block schemes, which only GGUF files hold, have the names
/// that they have there; [`crate::codec`] decodes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(non_camel_case_types)]
pub enum StoredType {
    F32,
    F16,
    BF16,
    I32,
    U8,
    I8,
    I16,
    U16,
    U32,
    I64,
    U64,
    F64,
    Bool,
    F8E4M3,
    F8E5M2,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
    /// ParoQuant; no file has blocks of it, see [`crate::tensors::Recipe::Paro`].
    W4_PARO,
}

impl StoredType {
    /// Every type, in declaration order.
    pub const ALL: &[Self] = &[
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::I32,
        Self::U8,
        Self::I8,
        Self::I16,
        Self::U16,
        Self::U32,
        Self::I64,
        Self::U64,
        Self::F64,
        Self::Bool,
        Self::F8E4M3,
        Self::F8E5M2,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::IQ4_NL,
        Self::IQ4_XS,
        Self::MXFP4,
        Self::W4_PARO,
    ];

    /// The storage scheme, as it appears on the `quant` axis of a kernel key.
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::I32 => "i32",
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::I64 => "i64",
            Self::U64 => "u64",
            Self::F64 => "f64",
            Self::Bool => "bool",
            Self::F8E4M3 => "f8_e4m3",
            Self::F8E5M2 => "f8_e5m2",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q8_0 => "q8_0",
            Self::Q2_K => "q2_k",
            Self::Q3_K => "q3_k",
            Self::Q4_K => "q4_k",
            Self::Q5_K => "q5_k",
            Self::Q6_K => "q6_k",
            Self::IQ4_NL => "iq4_nl",
            Self::IQ4_XS => "iq4_xs",
            Self::MXFP4 => "mxfp4",
            Self::W4_PARO => "w4_paro",
        }
    }

    /// Elements that are stored together; 1 for plain types.
    pub const fn block_elements(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::IQ4_NL | Self::MXFP4 => 32,
            Self::W4_PARO => 128,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K | Self::IQ4_XS => 256,
            _ => 1,
        }
    }

    /// Bytes of one block of [`block_elements`](Self::block_elements).
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool | Self::F8E4M3 | Self::F8E5M2 => 1,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::IQ4_NL => 18,
            Self::IQ4_XS => 136,
            Self::MXFP4 => 17,
            Self::W4_PARO => 68,
        }
    }

    /// Bytes that a tensor of `shape` takes, rows innermost; `None` when the product overflows or
    /// the innermost dimension is not a whole number of blocks.
    pub fn bytes_for(self, shape: &[usize]) -> Option<u64> {
        let block = self.block_elements();
        if !shape.last().copied().unwrap_or(1).is_multiple_of(block) {
            return None;
        }
        let elements = shape
            .iter()
            .try_fold(1u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?))?;
        (elements / block as u64).checked_mul(self.block_bytes() as u64)
    }

    /// The name that a safetensors header uses; `None` for block schemes, which it cannot hold.
    pub const fn safetensors_name(self) -> Option<&'static str> {
        Some(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I32 => "I32",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::I16 => "I16",
            Self::U16 => "U16",
            Self::U32 => "U32",
            Self::I64 => "I64",
            Self::U64 => "U64",
            Self::F64 => "F64",
            Self::Bool => "BOOL",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
            _ => return None,
        })
    }

    /// The type that a safetensors header calls `name`.
    pub fn from_safetensors_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|t| t.safetensors_name() == Some(name))
    }
}

impl std::fmt::Display for StoredType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.scheme())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_read_back() {
        for &t in StoredType::ALL {
            match t.safetensors_name() {
                Some(name) => assert_eq!(StoredType::from_safetensors_name(name), Some(t)),
                None => assert!(t.block_elements() > 1, "{t}"),
            }
            let same = StoredType::ALL.iter().filter(|u| u.scheme() == t.scheme());
            assert_eq!(same.count(), 1, "{t}");
        }
        assert_eq!(StoredType::from_safetensors_name("f32"), None);
        assert_eq!(StoredType::from_safetensors_name("Q4_K"), None);
    }

    #[test]
    fn sizes() {
        assert_eq!(StoredType::BF16.bytes_for(&[3, 5]), Some(30));
        assert_eq!(StoredType::F32.bytes_for(&[]), Some(4));
        assert_eq!(StoredType::F32.bytes_for(&[0, 7]), Some(0));
        assert_eq!(StoredType::U8.bytes_for(&[usize::MAX, 2]), None);
        assert_eq!(StoredType::F64.bytes_for(&[usize::MAX]), None);
        assert_eq!(StoredType::Q4_K.bytes_for(&[3, 512]), Some(3 * 2 * 144));
        assert_eq!(StoredType::Q4_K.bytes_for(&[256, 128]), None);
        assert_eq!(StoredType::MXFP4.bytes_for(&[]), None);
        assert_eq!(StoredType::Q8_0.bytes_for(&[usize::MAX, 32]), None);
    }
}
