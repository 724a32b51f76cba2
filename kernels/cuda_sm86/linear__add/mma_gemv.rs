//! op: linear+add, few rows of block-quantised weights. See `common/mma_gemv.cuh`.

use crate::common::launch::Plain;
use crate::common::mma_gemv::{self, kernel};
use crate::common::patterns::ADDED;

static Q4_0: Plain = kernel(&ADDED, &["q4_0"], mma_gemv::Q4_0).with_rank(30);
static Q8_0: Plain = kernel(&ADDED, &["q8_0"], mma_gemv::Q8_0).with_rank(30);
static Q4_K: Plain = kernel(&ADDED, &["q4_k"], mma_gemv::Q4_K).with_rank(30);
static Q5_K: Plain = kernel(&ADDED, &["q5_k"], mma_gemv::Q5_K).with_rank(30);
static Q6_K: Plain = kernel(&ADDED, &["q6_k"], mma_gemv::Q6_K).with_rank(30);
registry::register!(Q4_0, Q8_0, Q4_K, Q5_K, Q6_K);
