//! op: linear+add, few rows of block-quantised weights. See `common/mma_gemv.cuh`.

use crate::common::launch::Plain;
use crate::common::mma_gemv::{self, kernel};
use registry::patterns::LINEAR_ADD;

// Behind the composites that take a norm, too.
static Q4_0: Plain = kernel(&LINEAR_ADD, &["q4_0"], mma_gemv::Q4_0).with_rank(24);
static Q8_0: Plain = kernel(&LINEAR_ADD, &["q8_0"], mma_gemv::Q8_0).with_rank(24);
static Q4_K: Plain = kernel(&LINEAR_ADD, &["q4_k"], mma_gemv::Q4_K).with_rank(24);
static Q5_K: Plain = kernel(&LINEAR_ADD, &["q5_k"], mma_gemv::Q5_K).with_rank(24);
static Q6_K: Plain = kernel(&LINEAR_ADD, &["q6_k"], mma_gemv::Q6_K).with_rank(24);
registry::register!(Q4_0, Q8_0, Q4_K, Q5_K, Q6_K);

static Q4_1: Plain = kernel(&LINEAR_ADD, &["q4_1"], mma_gemv::Q4_1).with_rank(24);
static Q5_0: Plain = kernel(&LINEAR_ADD, &["q5_0"], mma_gemv::Q5_0).with_rank(24);
static Q5_1: Plain = kernel(&LINEAR_ADD, &["q5_1"], mma_gemv::Q5_1).with_rank(24);
static Q2_K: Plain = kernel(&LINEAR_ADD, &["q2_k"], mma_gemv::Q2_K).with_rank(24);
static Q3_K: Plain = kernel(&LINEAR_ADD, &["q3_k"], mma_gemv::Q3_K).with_rank(24);
static IQ4_NL: Plain = kernel(&LINEAR_ADD, &["iq4_nl"], mma_gemv::IQ4_NL).with_rank(24);
static IQ4_XS: Plain = kernel(&LINEAR_ADD, &["iq4_xs"], mma_gemv::IQ4_XS).with_rank(24);
static MXFP4: Plain = kernel(&LINEAR_ADD, &["mxfp4"], mma_gemv::MXFP4).with_rank(24);
static W4_PARO: Plain = kernel(&LINEAR_ADD, &["w4_paro"], mma_gemv::W4_PARO).with_rank(24);
registry::register!(Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, IQ4_NL, IQ4_XS, MXFP4, W4_PARO);
