//! op: expert_linear of many rows and block-quantised weights. See `common/grouped.rs`.

use crate::common::grouped::{self, kernel};
use crate::common::launch::Plain;
use registry::Pattern;

static Q4_0: Plain = kernel(&Pattern::EXPERT_LINEAR, &["q4_0"], grouped::Q4_0);
static Q8_0: Plain = kernel(&Pattern::EXPERT_LINEAR, &["q8_0"], grouped::Q8_0);
static Q4_K: Plain = kernel(&Pattern::EXPERT_LINEAR, &["q4_k"], grouped::Q4_K);
static Q5_K: Plain = kernel(&Pattern::EXPERT_LINEAR, &["q5_k"], grouped::Q5_K);
static Q6_K: Plain = kernel(&Pattern::EXPERT_LINEAR, &["q6_k"], grouped::Q6_K);
registry::register!(Q4_0, Q8_0, Q4_K, Q5_K, Q6_K);

static IQ4_NL: Plain = kernel(&Pattern::EXPERT_LINEAR, &["iq4_nl"], grouped::IQ4_NL);
static IQ4_XS: Plain = kernel(&Pattern::EXPERT_LINEAR, &["iq4_xs"], grouped::IQ4_XS);
static MXFP4: Plain = kernel(&Pattern::EXPERT_LINEAR, &["mxfp4"], grouped::MXFP4);
static W4_PARO: Plain = kernel(&Pattern::EXPERT_LINEAR, &["w4_paro"], grouped::W4_PARO);
registry::register!(IQ4_NL, IQ4_XS, MXFP4, W4_PARO);
