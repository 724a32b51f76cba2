//! op: expert_linear+expert_linear+silu_mul of block-quantised weights: gate and up
//! of the experts that a row chose. See `common/stacked.rs`.

use crate::common::launch::Plain;
use crate::common::mma_gemv;
use crate::common::stacked::of_blocks;
use registry::patterns::EXPERTS_GATE_UP;

static Q4_0: Plain = of_blocks(&EXPERTS_GATE_UP, &["q4_0"], mma_gemv::Q4_0).with_rank(20);
static Q8_0: Plain = of_blocks(&EXPERTS_GATE_UP, &["q8_0"], mma_gemv::Q8_0).with_rank(20);
static Q4_K: Plain = of_blocks(&EXPERTS_GATE_UP, &["q4_k"], mma_gemv::Q4_K).with_rank(20);
static Q5_K: Plain = of_blocks(&EXPERTS_GATE_UP, &["q5_k"], mma_gemv::Q5_K).with_rank(20);
static Q6_K: Plain = of_blocks(&EXPERTS_GATE_UP, &["q6_k"], mma_gemv::Q6_K).with_rank(20);
registry::register!(Q4_0, Q8_0, Q4_K, Q5_K, Q6_K);
