//! op: attention, many rows, heads of 256 on the tensor cores; of 128 too, where
//! `flash` is quicker. See `flash_wide.cu`.

use super::flash::{Cut, fits_dims, launch};
use crate::common::launch::{Fits, Plain, Ptx, Result, Step, ptx};
use registry::{Pattern, Problem};

/// q twice, and a tile of 32 keys and values.
const CUT: Cut = Cut {
    rows: 64,
    threads: 128,
    shared: 2 * 2 * 64 + 2 * 2 * 32,
    beside: 0,
};

/// q twice, a tile of keys or values, and the codes and scales of both.
const INT8_CUT: Cut = Cut {
    shared: 2 * 2 * 64 + 2 * 32 + 2 * 32,
    beside: 2 * 32 * 4,
    ..CUT
};

const fn of(
    quant: &'static [&'static str],
    ptx: Ptx,
    fits: fn(&Problem) -> Fits,
    record: fn(&mut Step<'_>) -> Result<()>,
) -> Plain {
    Plain::new(&Pattern::ATTENTION, quant, "flash_wide", ptx, record)
        .with_fits(fits)
        .with_rank(15)
        .with_tolerance(1e-4)
}

static F16: Plain = of(
    &["f16"],
    ptx!("attention.flash_wide"),
    |problem| fits_dims(problem, &[128, 256]),
    |step| launch(step, &CUT),
);
// Heads of 64 for the gate alone: it deals none of 128 to this scheme and so many rows.
static INT8: Plain = of(
    &["int8_kv"],
    ptx!("attention.flash_wide_int8"),
    |problem| fits_dims(problem, &[64, 128, 256]),
    |step| launch(step, &INT8_CUT),
);
registry::register!(F16, INT8);
