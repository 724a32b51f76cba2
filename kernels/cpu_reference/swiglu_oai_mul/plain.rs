//! op: swiglu_oai_mul. y = g·σ(1.702·g)·(clamp(up, −7, 7) + 1) with g = min(gate, 7). See [`gated`].

use crate::common::gated;
use crate::common::plumbing::Plain;
use registry::Pattern;

static F32: Plain = gated::kernel(&Pattern::SWIGLU_OAI_MUL);
registry::register!(F32);
