//! op: linear+linear+linear+linear, few rows of block-quantised weights. See
//! `common/mma_gemv.cuh`.

use crate::common::launch::Plain;
use crate::common::mma_gemv::{self, kernel};
use registry::patterns::QKV_GATE;

static Q4_0: Plain = kernel(&QKV_GATE, &["q4_0"], mma_gemv::Q4_0);
static Q8_0: Plain = kernel(&QKV_GATE, &["q8_0"], mma_gemv::Q8_0);
static Q4_K: Plain = kernel(&QKV_GATE, &["q4_k"], mma_gemv::Q4_K);
static Q5_K: Plain = kernel(&QKV_GATE, &["q5_k"], mma_gemv::Q5_K);
static Q6_K: Plain = kernel(&QKV_GATE, &["q6_k"], mma_gemv::Q6_K);
registry::register!(Q4_0, Q8_0, Q4_K, Q5_K, Q6_K);

static Q4_1: Plain = kernel(&QKV_GATE, &["q4_1"], mma_gemv::Q4_1);
static Q5_0: Plain = kernel(&QKV_GATE, &["q5_0"], mma_gemv::Q5_0);
static Q5_1: Plain = kernel(&QKV_GATE, &["q5_1"], mma_gemv::Q5_1);
static Q2_K: Plain = kernel(&QKV_GATE, &["q2_k"], mma_gemv::Q2_K);
static Q3_K: Plain = kernel(&QKV_GATE, &["q3_k"], mma_gemv::Q3_K);
static IQ4_NL: Plain = kernel(&QKV_GATE, &["iq4_nl"], mma_gemv::IQ4_NL);
static IQ4_XS: Plain = kernel(&QKV_GATE, &["iq4_xs"], mma_gemv::IQ4_XS);
static MXFP4: Plain = kernel(&QKV_GATE, &["mxfp4"], mma_gemv::MXFP4);
static W4_PARO: Plain = kernel(&QKV_GATE, &["w4_paro"], mma_gemv::W4_PARO);
registry::register!(Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, IQ4_NL, IQ4_XS, MXFP4, W4_PARO);
