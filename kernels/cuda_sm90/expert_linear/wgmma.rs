//! op: expert_linear of many rows. See `common/grouped.cu`.

use crate::common::grouped::kernel;
use cuda_sm86::common::launch::Plain;
use registry::Pattern;

static Q4_K: Plain = kernel(&Pattern::EXPERT_LINEAR, &["q4_k"]);
static Q5_K: Plain = kernel(&Pattern::EXPERT_LINEAR, &["q5_k"]);
registry::register!(Q4_K, Q5_K);
