//! op: linear+linear+silu_mul, few rows of block-quantised weights. See `common/mma_gemv.cuh`.

use crate::common::launch::Plain;
use crate::common::mma_gemv::{self, kernel};
use registry::patterns::GATE_UP;

static Q4_0: Plain = kernel(&GATE_UP, &["q4_0"], mma_gemv::Q4_0);
static Q8_0: Plain = kernel(&GATE_UP, &["q8_0"], mma_gemv::Q8_0);
static Q4_K: Plain = kernel(&GATE_UP, &["q4_k"], mma_gemv::Q4_K);
static Q5_K: Plain = kernel(&GATE_UP, &["q5_k"], mma_gemv::Q5_K);
static Q6_K: Plain = kernel(&GATE_UP, &["q6_k"], mma_gemv::Q6_K);
registry::register!(Q4_0, Q8_0, Q4_K, Q5_K, Q6_K);
