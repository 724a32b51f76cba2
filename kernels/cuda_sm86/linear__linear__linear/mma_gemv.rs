//! op: linear+linear+linear, few rows of block-quantised weights. See `common/mma_gemv.cuh`.

use crate::common::launch::Plain;
use crate::common::mma_gemv::{self, kernel};
use crate::common::patterns::THREE;

static Q4_0: Plain = kernel(&THREE, &["q4_0"], mma_gemv::Q4_0);
static Q8_0: Plain = kernel(&THREE, &["q8_0"], mma_gemv::Q8_0);
static Q4_K: Plain = kernel(&THREE, &["q4_k"], mma_gemv::Q4_K);
static Q5_K: Plain = kernel(&THREE, &["q5_k"], mma_gemv::Q5_K);
static Q6_K: Plain = kernel(&THREE, &["q6_k"], mma_gemv::Q6_K);
registry::register!(Q4_0, Q8_0, Q4_K, Q5_K, Q6_K);

// Files mix schemes: the values of some layers get more bits.
static Q4_K_Q5_K: Plain = kernel(&THREE, &["q4_k", "q4_k", "q5_k"], mma_gemv::MIXED);
static Q4_K_Q6_K: Plain = kernel(&THREE, &["q4_k", "q4_k", "q6_k"], mma_gemv::MIXED);
static Q5_K_Q6_K: Plain = kernel(&THREE, &["q5_k", "q5_k", "q6_k"], mma_gemv::MIXED);
registry::register!(Q4_K_Q5_K, Q4_K_Q6_K, Q5_K_Q6_K);
