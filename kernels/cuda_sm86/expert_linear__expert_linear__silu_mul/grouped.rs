//! op: expert_linear+expert_linear+silu_mul of many rows: gate and up of the experts that
//! each chose. See `common/grouped.rs`.

use crate::common::grouped::{self, kernel};
use crate::common::launch::Plain;
use registry::patterns::EXPERTS_GATE_UP;

static Q4_0: Plain = kernel(&EXPERTS_GATE_UP, &["q4_0"], grouped::Q4_0);
static Q8_0: Plain = kernel(&EXPERTS_GATE_UP, &["q8_0"], grouped::Q8_0);
static Q4_K: Plain = kernel(&EXPERTS_GATE_UP, &["q4_k"], grouped::Q4_K);
static Q5_K: Plain = kernel(&EXPERTS_GATE_UP, &["q5_k"], grouped::Q5_K);
static Q6_K: Plain = kernel(&EXPERTS_GATE_UP, &["q6_k"], grouped::Q6_K);
registry::register!(Q4_0, Q8_0, Q4_K, Q5_K, Q6_K);
