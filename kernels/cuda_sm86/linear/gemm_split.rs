//! op: linear, many rows of f16 or bf16 weights on the tensor cores; x is split in
//! two numbers of the weights' format. See `common/gemm.cuh`.

use crate::common::gemm::split;
use crate::common::launch::Plain;

static F16: Plain = split(&["f16"]);
static BF16: Plain = split(&["bf16"]);
registry::register!(F16, BF16);
