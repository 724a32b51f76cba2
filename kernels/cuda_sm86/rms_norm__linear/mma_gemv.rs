//! op: rms_norm+linear, few rows of block-quantised weights, one row. See `common/mma_gemv.cuh`.

use crate::common::launch::Plain;
use crate::common::mma_gemv::{self, normed};
use crate::common::patterns::NORM_ONE;

static Q4_0: Plain = normed(&NORM_ONE, &["q4_0"], mma_gemv::Q4_0);
static Q8_0: Plain = normed(&NORM_ONE, &["q8_0"], mma_gemv::Q8_0);
static Q4_K: Plain = normed(&NORM_ONE, &["q4_k"], mma_gemv::Q4_K);
static Q5_K: Plain = normed(&NORM_ONE, &["q5_k"], mma_gemv::Q5_K);
static Q6_K: Plain = normed(&NORM_ONE, &["q6_k"], mma_gemv::Q6_K);
registry::register!(Q4_0, Q8_0, Q4_K, Q5_K, Q6_K);
