//! op: attention with queries rounded to f16 first; see `plain.rs`. Scores, the weights
//! of the softmax and all sums are as they are there.

use super::plain::{attend, kernel};
use crate::common::act;
use crate::common::plumbing::Plain;
use registry::Act;

const fn of(quant: &'static [&'static str]) -> Plain {
    kernel(quant, "act_f16", Act::F16, |step| {
        attend(step, Some(act::to_f16))
    })
}

static F32: Plain = of(&["f32"]);
static F16: Plain = of(&["f16"]);
static BF16: Plain = of(&["bf16"]);
static INT8: Plain = of(&["int8_kv"]);
registry::register!(F32, F16, BF16, INT8);
