//! op: gelu_mul. y = ½·gate·(1 + erf(gate/√2))·up. See [`gated`].

use crate::common::gated;
use crate::common::plumbing::Plain;
use registry::Pattern;

static F32: Plain = gated::kernel(&Pattern::GELU_MUL);
registry::register!(F32);
