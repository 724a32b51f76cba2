//! op: linear, many rows. See `common/gemm.cu`.

use crate::common::gemm::register_all;
use registry::Pattern;

register_all!(&Pattern::LINEAR, alone);

// Those that the parent has no composites for.
static Q4_1: cuda_sm86::common::launch::Plain = kernel(&Pattern::LINEAR, &["q4_1"]);
static Q5_0: cuda_sm86::common::launch::Plain = kernel(&Pattern::LINEAR, &["q5_0"]);
static Q5_1: cuda_sm86::common::launch::Plain = kernel(&Pattern::LINEAR, &["q5_1"]);
static Q2_K: cuda_sm86::common::launch::Plain = kernel(&Pattern::LINEAR, &["q2_k"]);
static Q3_K: cuda_sm86::common::launch::Plain = kernel(&Pattern::LINEAR, &["q3_k"]);
static IQ4_NL: cuda_sm86::common::launch::Plain = kernel(&Pattern::LINEAR, &["iq4_nl"]);
static IQ4_XS: cuda_sm86::common::launch::Plain = kernel(&Pattern::LINEAR, &["iq4_xs"]);
static MXFP4: cuda_sm86::common::launch::Plain = kernel(&Pattern::LINEAR, &["mxfp4"]);
static W4_PARO: cuda_sm86::common::launch::Plain = kernel(&Pattern::LINEAR, &["w4_paro"]);
registry::register!(Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, IQ4_NL, IQ4_XS, MXFP4, W4_PARO);
