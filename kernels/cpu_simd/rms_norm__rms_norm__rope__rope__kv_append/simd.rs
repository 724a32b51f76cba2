//! rms_norm+rms_norm+rope+rope+kv_append / f32, f16, bf16, int8_kv caches / simd (cpu_simd)
//! op:        q' = rope(rms_norm(q)); cache[…] = rope(rms_norm(k)), v; norms per head
//! shapes:    q [T, heads, head_dim]; k, v [T, kv_heads, head_dim]; norm weights
//!            [head_dim]; table [T, rotary_dim]; outputs q' and the cache
//! dtypes:    f32; the cache's scheme, rounded to nearest even
//! partition: threads share (row, head)
//! source:    arXiv:1910.07467, arXiv:2104.09864; written here
//! parity:    1e-5 (q'); the cache to its own rounding

use crate::common::plumbing::SimdKernel;
use crate::common::rope_append::{fits, record};
use registry::patterns::QK_NORM_ROPE_APPEND;

const fn kernel(quant: &'static [&'static str], tolerance: f32) -> SimdKernel {
    SimdKernel::new(&QK_NORM_ROPE_APPEND, quant, "simd", tolerance, record)
        .with_fits(fits)
        .with_rank(50)
}

static F32: SimdKernel = kernel(&["f32"], 1e-5);
static F16: SimdKernel = kernel(&["f16"], 1e-5);
static BF16: SimdKernel = kernel(&["bf16"], 1e-5);
static INT8: SimdKernel = kernel(&["int8_kv"], 1e-5);
registry::register!(F32, F16, BF16, INT8);
