//! op: sigmoid_mul. y = σ(gate)·up. See [`gated`].

use crate::common::gated;
use crate::common::plumbing::Plain;
use registry::Pattern;

static F32: Plain = gated::kernel(&Pattern::SIGMOID_MUL);
registry::register!(F32);
