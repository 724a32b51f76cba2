//! op: linear, many rows, by matrices of bf16 that a workgroup
//! multiplies as one. See `coopmat2.comp`.

use crate::common::coopmat::{self, Way, further};
use crate::common::launch::{Further, Plain};
use crate::common::stored::{for_each_scheme, register_schemes};
use registry::Pattern;

const SHADERS: &[Further] = further!(WorkgroupBf16, "linear.coopmat2");

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    coopmat::kernel(
        &Pattern::LINEAR,
        quant,
        layouts,
        Way::WorkgroupBf16,
        SHADERS,
    )
}

for_each_scheme!(register_schemes);
