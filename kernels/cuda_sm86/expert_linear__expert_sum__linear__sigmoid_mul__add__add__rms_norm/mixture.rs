//! op: expert_linear+expert_sum+linear+sigmoid_mul+add+add+rms_norm of one row. See `common/mixture.cuh`.

use crate::common::launch::Plain;
use crate::common::mixture::{self, of_sum_norm};

static Q4_0: Plain = of_sum_norm(&["q4_0"], mixture::Q4_0);
static Q8_0: Plain = of_sum_norm(&["q8_0"], mixture::Q8_0);
static Q4_K: Plain = of_sum_norm(&["q4_k"], mixture::Q4_K);
registry::register!(Q4_0, Q8_0, Q4_K);
