//! op: expert_linear+expert_linear+silu_mul of many rows: gate and up of the experts that
//! each chose. See `common/grouped.cu`.

use crate::common::grouped::kernel;
use cuda_sm86::common::launch::Plain;
use registry::patterns::EXPERTS_GATE_UP;

static Q4_K: Plain = kernel(&EXPERTS_GATE_UP, &["q4_k"]);
static Q5_K: Plain = kernel(&EXPERTS_GATE_UP, &["q5_k"]);
registry::register!(Q4_K, Q5_K);
