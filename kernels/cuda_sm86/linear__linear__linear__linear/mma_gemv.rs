//! op: linear+linear+linear+linear, few rows of block-quantised weights. See
//! `common/mma_gemv.cuh`.

use crate::common::launch::{Plain, Ptx};
use crate::common::mma_gemv::{self, kernel};
use registry::patterns::QKV_GATE;

/// Taken before three of the four.
const fn of_four(quant: &'static [&'static str], ptx: Ptx) -> Plain {
    kernel(&QKV_GATE, quant, ptx).with_rank(25)
}

static Q4_0: Plain = of_four(&["q4_0"], mma_gemv::Q4_0);
static Q8_0: Plain = of_four(&["q8_0"], mma_gemv::Q8_0);
static Q4_K: Plain = of_four(&["q4_k"], mma_gemv::Q4_K);
static Q5_K: Plain = of_four(&["q5_k"], mma_gemv::Q5_K);
static Q6_K: Plain = of_four(&["q6_k"], mma_gemv::Q6_K);
registry::register!(Q4_0, Q8_0, Q4_K, Q5_K, Q6_K);

static Q4_1: Plain = of_four(&["q4_1"], mma_gemv::Q4_1);
static Q5_0: Plain = of_four(&["q5_0"], mma_gemv::Q5_0);
static Q5_1: Plain = of_four(&["q5_1"], mma_gemv::Q5_1);
static Q2_K: Plain = of_four(&["q2_k"], mma_gemv::Q2_K);
static Q3_K: Plain = of_four(&["q3_k"], mma_gemv::Q3_K);
static IQ4_NL: Plain = of_four(&["iq4_nl"], mma_gemv::IQ4_NL);
static IQ4_XS: Plain = of_four(&["iq4_xs"], mma_gemv::IQ4_XS);
static MXFP4: Plain = of_four(&["mxfp4"], mma_gemv::MXFP4);
static W4_PARO: Plain = of_four(&["w4_paro"], mma_gemv::W4_PARO);
registry::register!(Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, IQ4_NL, IQ4_XS, MXFP4, W4_PARO);
