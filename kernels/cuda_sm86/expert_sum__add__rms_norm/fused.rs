//! op: expert_sum+add+rms_norm. See `common/tail.cu`.

use crate::common::launch::Plain;
use crate::common::tail::kernel;
use registry::patterns::EXPERT_SUM_ADD_NORM;

static F32: Plain = kernel(&EXPERT_SUM_ADD_NORM);
registry::register!(F32);
