//! op: linear, many rows of block-quantised weights that are brought to bf16 first. See
//! `common/unpacked.rs`.

use crate::common::launch::Plain;
use crate::common::unpacked::kernel;

static Q4_1: Plain = kernel(&["q4_1"]);
static Q5_0: Plain = kernel(&["q5_0"]);
static Q5_1: Plain = kernel(&["q5_1"]);
static Q2_K: Plain = kernel(&["q2_k"]);
static Q3_K: Plain = kernel(&["q3_k"]);
static IQ4_NL: Plain = kernel(&["iq4_nl"]);
static IQ4_XS: Plain = kernel(&["iq4_xs"]);
static MXFP4: Plain = kernel(&["mxfp4"]);
static W4_PARO: Plain = kernel(&["w4_paro"]);
registry::register!(Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, IQ4_NL, IQ4_XS, MXFP4, W4_PARO);
