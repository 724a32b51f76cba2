//! op: linear+linear, few rows of block-quantised weights. See `common/mma_gemv.cuh`.

use crate::common::launch::Plain;
use crate::common::mma_gemv::{self, kernel};
use crate::common::patterns::TWO;

static Q4_0: Plain = kernel(&TWO, &["q4_0"], mma_gemv::Q4_0);
static Q8_0: Plain = kernel(&TWO, &["q8_0"], mma_gemv::Q8_0);
static Q4_K: Plain = kernel(&TWO, &["q4_k"], mma_gemv::Q4_K);
static Q5_K: Plain = kernel(&TWO, &["q5_k"], mma_gemv::Q5_K);
static Q6_K: Plain = kernel(&TWO, &["q6_k"], mma_gemv::Q6_K);
registry::register!(Q4_0, Q8_0, Q4_K, Q5_K, Q6_K);
