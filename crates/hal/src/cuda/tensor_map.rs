//! Tensor maps: what the copy engine of compute capability 9.0 is told of a matrix.

use super::driver::driver_error;
use super::memory::Memory;
use super::record::CudaRecorder;
use crate::{Buffer, Result};
use cudarc::driver::sys;

/// A matrix of 16-bit numbers in rows, as a kernel's parameter: 128 bytes that only
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

impl CudaRecorder {
    /// Describes a matrix to the copy engine. What a box has beyond the matrix is zero.
    ///
    /// # Errors
    /// A matrix beyond its buffer, or one that the driver does not take (alignment,
    /// a device of less than compute capability 9.0).
    pub fn tensor_map(&self, m: &Matrix<'_>) -> Result<TensorMap> {
        const BOX_COLUMNS: u32 = 64;
        let bad = |reason: String| driver_error("cuTensorMapEncodeTiled", reason);
        let (rows, columns, stride) = (m.rows as u64, m.columns as u64, m.stride as u64);
        let all = (rows.saturating_sub(1)).checked_mul(stride);
        let bytes = all.and_then(|n| n.checked_add(columns)?.checked_mul(2));
        let bytes = bytes.ok_or_else(|| bad(format!("{rows} rows of {stride} are too many")))?;
        let range = m.buffer.check("tensor map", m.offset, bytes)?;
        let shared = self.device_shared();
        let address = Memory::of(shared, m.buffer)?.address() + range.start;
        let (dims, strides) = ([columns, rows], [stride * 2]);
        let (boxes, steps) = ([BOX_COLUMNS, m.box_rows], [1u32, 1]);
        use sys::CUtensorMapDataType_enum as Type;
        // SAFETY: plain bytes.
        let mut map: sys::CUtensorMap = unsafe { std::mem::zeroed() };
        // SAFETY: the arrays have as many entries as the rank asks for; the driver
        // fills the map, which is aligned as its type says.
        let got = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map,
                match m.format {
                    MapFormat::F16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                    MapFormat::Bf16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                },
                2,
                address as *mut std::ffi::c_void,
                dims.as_ptr(),
                strides.as_ptr(),
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
                "{}: a matrix of {rows} by {columns}, {stride} from row to row, at {address:#x}",
                super::driver::text(e)
            ))),
        }
    }
}
