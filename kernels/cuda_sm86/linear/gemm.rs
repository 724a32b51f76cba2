//! op: linear, many rows of f16 or bf16 weights on the tensor cores; x is rounded
//! to the weights' format. See `common/gemm.cuh`.

use crate::common::gemm::rounded;
use crate::common::launch::Plain;
use registry::Act;

static F16: Plain = rounded(&["f16"], Act::F16);
static BF16: Plain = rounded(&["bf16"], Act::Bf16);
registry::register!(F16, BF16);
