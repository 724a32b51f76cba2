//! op: rms_norm+linear+linear+linear, many rows. See `common/gemm.cu`.

use crate::common::gemm::register_all;
use cuda_sm86::common::launch::Plain;
use registry::patterns::NORM_QKV;

register_all!(&NORM_QKV, normed);

// Files mix schemes: the values of some layers get more bits.
static Q4_K_Q5_K: Plain = normed(kernel(&NORM_QKV, &["q4_k", "q4_k", "q5_k"]));
static Q4_K_Q6_K: Plain = normed(kernel(&NORM_QKV, &["q4_k", "q4_k", "q6_k"]));
static Q5_K_Q6_K: Plain = normed(kernel(&NORM_QKV, &["q5_k", "q5_k", "q6_k"]));
registry::register!(Q4_K_Q5_K, Q4_K_Q6_K, Q5_K_Q6_K);
