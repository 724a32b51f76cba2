//! op: linear, many rows and up to 512 columns of f32 weights: routers. See `tf32x3.cu` of
//! the parent.

use crate::BACKEND;
use cuda_sm86::common::launch::Plain;
use cuda_sm86::common::tf32x3::kernel;

static F32: Plain = kernel::<512>().of_tree(BACKEND).with_rank(16);
registry::register!(F32);
