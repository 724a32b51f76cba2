//! op: linear+linear+linear, many rows of block-quantised weights. See `common/mma_gemm.cuh`.

use crate::common::launch::Plain;
use crate::common::mma_gemm::{self, kernel};
use registry::patterns::QKV;

static Q4_0: Plain = kernel(&QKV, &["q4_0"], mma_gemm::Q4_0);
static Q8_0: Plain = kernel(&QKV, &["q8_0"], mma_gemm::Q8_0);
static Q4_K: Plain = kernel(&QKV, &["q4_k"], mma_gemm::Q4_K);
static Q5_K: Plain = kernel(&QKV, &["q5_k"], mma_gemm::Q5_K);
static Q6_K: Plain = kernel(&QKV, &["q6_k"], mma_gemm::Q6_K);
registry::register!(Q4_0, Q8_0, Q4_K, Q5_K, Q6_K);
