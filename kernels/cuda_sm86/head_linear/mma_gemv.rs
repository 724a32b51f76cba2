//! op: head_linear of block-quantised weights. See `common/stacked.rs`.

use crate::common::launch::Plain;
use crate::common::mma_gemv;
use crate::common::stacked::of_blocks;
use registry::Pattern;

static Q4_0: Plain = of_blocks(&Pattern::HEAD_LINEAR, &["q4_0"], mma_gemv::Q4_0);
static Q8_0: Plain = of_blocks(&Pattern::HEAD_LINEAR, &["q8_0"], mma_gemv::Q8_0);
static Q4_K: Plain = of_blocks(&Pattern::HEAD_LINEAR, &["q4_k"], mma_gemv::Q4_K);
static Q5_K: Plain = of_blocks(&Pattern::HEAD_LINEAR, &["q5_k"], mma_gemv::Q5_K);
static Q6_K: Plain = of_blocks(&Pattern::HEAD_LINEAR, &["q6_k"], mma_gemv::Q6_K);
registry::register!(Q4_0, Q8_0, Q4_K, Q5_K, Q6_K);
