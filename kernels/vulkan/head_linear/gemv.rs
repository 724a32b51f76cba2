//! op: head_linear. See `common/stacked.comp`.

use crate::common::launch::Plain;
use crate::common::stacked;
use crate::common::stored::{for_each_scheme, register_schemes};
use registry::Pattern;

const fn of(quant: &'static [&'static str], layouts: &'static [&'static str]) -> Plain {
    stacked::kernel(&Pattern::HEAD_LINEAR, quant, layouts)
}

for_each_scheme!(register_schemes);
