//! op: gelu_tanh_mul. y = ½·gate·(1 + tanh(√(2/π)·(gate + 0.044715·gate³)))·up. See [`gated`].

use crate::common::gated;
use crate::common::plumbing::Plain;
use registry::Pattern;

static F32: Plain = gated::kernel(&Pattern::GELU_TANH_MUL);
registry::register!(F32);
