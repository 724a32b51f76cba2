//! Tensor maps: what the copy engine of compute capability 9.0 is told of a tensor.

use super::driver::driver_error;
use super::memory::Memory;
use super::record::CudaRecorder;
use crate::{Buffer, Result};
use cudarc::driver::sys;

/// A tensor of 16-bit numbers, as a kernel's parameter: 128 bytes that only
/// the driver can make, at a multiple of 64.
#[derive(Clone, Copy, Debug)]
pub struct TensorMap(pub [u64; 16]);

/// Numbers in a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapFormat {
    F16,
    Bf16,
}

/// A matrix and the box of it that one copy moves: 64 columns, whose 16-byte pieces
/// c of row r go to place c ^ (r mod 8) of 128 bytes of shared memory.
pub struct Matrix<'a> {
    pub buffer: &'a Buffer,
    /// Byte where it starts, a multiple of 16.
    pub offset: u64,
    pub rows: usize,
    pub columns: usize,
    /// Numbers from a row to the next, a multiple of 8.
    pub stride: usize,
    pub format: MapFormat,
    /// Rows of a box, up to 256.
    pub box_rows: u32,
}

/// A tensor of 16-bit numbers in up to five dimensions, the innermost first, whose
/// numbers lie one behind the other, and the box of it that one copy moves: 64 of those,
/// swizzled as a [`Matrix`]'s.
pub struct Strided<'a> {
    pub buffer: &'a Buffer,
    /// Byte where it starts, a multiple of 16.
    pub offset: u64,
    pub shape: &'a [usize],
    /// Numbers from an element to the next of each dimension but the innermost,
    /// multiples of 8; a later one may be the smaller (seen with driver 580).
    pub strides: &'a [usize],
    pub format: MapFormat,
    /// Elements of a box in each dimension but the innermost, up to 256.
    pub box_shape: &'a [u32],
}

impl CudaRecorder {
    /// Describes a matrix to the copy engine. What a box has beyond the matrix is zero.
    ///
    /// # Errors
    /// As [`Self::strided_map`].
    pub fn tensor_map(&self, m: &Matrix<'_>) -> Result<TensorMap> {
        self.strided_map(&Strided {
            buffer: m.buffer,
            offset: m.offset,
            shape: &[m.columns, m.rows],
            strides: &[m.stride],
            format: m.format,
            box_shape: &[m.box_rows],
        })
    }

    /// Describes a tensor to the copy engine. What a box has beyond the tensor is zero.
    ///
    /// # Errors
    /// A tensor beyond its buffer, or one that the driver does not take (alignment,
    /// more than five dimensions, a device of less than compute capability 9.0).
    pub fn strided_map(&self, t: &Strided<'_>) -> Result<TensorMap> {
        const BOX_COLUMNS: u32 = 64;
        let bad = |reason: String| driver_error("cuTensorMapEncodeTiled", reason);
        let (shape, strides) = (t.shape, t.strides);
        let what = || format!("a tensor of {shape:?} with strides of {strides:?}");
        let rank = shape.len();
        if rank == 0 || strides.len() + 1 != rank || t.box_shape.len() + 1 != rank {
            return Err(bad(format!("{} and boxes of {:?}", what(), t.box_shape)));
        }
        let mut outer = shape[1..].iter().zip(strides);
        let last = outer.try_fold(shape[0] as u64, |sum, (n, stride)| {
            (n.saturating_sub(1) as u64)
                .checked_mul(*stride as u64)?
                .checked_add(sum)
        });
        let bytes = last.and_then(|n| n.checked_mul(2));
        let bytes = bytes.ok_or_else(|| bad(format!("{} is too large", what())))?;
        let range = t.buffer.check("tensor map", t.offset, bytes)?;
        let shared = self.device_shared();
        let address = Memory::of(shared, t.buffer)?.address() + range.start;
        let dims: Vec<u64> = shape.iter().map(|n| *n as u64).collect();
        let pitches: Vec<u64> = strides.iter().map(|n| *n as u64 * 2).collect();
        let boxes = [&[BOX_COLUMNS], t.box_shape].concat();
        let steps = vec![1u32; rank];
        use sys::CUtensorMapDataType_enum as Type;
        // SAFETY: plain bytes.
        let mut map: sys::CUtensorMap = unsafe { std::mem::zeroed() };
        // SAFETY: the arrays have as many entries as the rank asks for; the driver
        // fills the map, which is aligned as its type says.
        let got = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                match t.format {
                    MapFormat::F16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                    MapFormat::Bf16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                },
                rank as u32,
                address as *mut std::ffi::c_void,
                dims.as_ptr(),
                pitches.as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        match got {
            sys::CUresult::CUDA_SUCCESS => Ok(TensorMap(map.opaque)),
            e => Err(bad(format!(
                "{}: {} at {address:#x}, in boxes of {boxes:?}",
                super::driver::text(e),
                what()
            ))),
        }
    }
}
