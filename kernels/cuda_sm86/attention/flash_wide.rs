//! op: attention, many rows, heads of 256 on the tensor cores; of 128 too, where
//! `flash` is quicker. See `flash_wide.cu`.

use super::flash;
use crate::common::launch::{Plain, ptx};
use registry::Pattern;

/// Rows of a block, its threads, and its shared memory for each element of a head: q
/// twice, and a tile of 32 keys and values.
const ROWS: usize = 64;
const THREADS: u32 = 128;
const SHARED: u32 = 2 * 2 * 64 + 2 * 2 * 32;

static F16: Plain = Plain::new(
    &Pattern::ATTENTION,
    &["f16"],
    "flash_wide",
    ptx!("attention.flash_wide"),
    |step| flash::launch(step, ROWS, THREADS, SHARED),
)
.with_fits(|problem| flash::fits_dims(problem, &[128, 256]))
.with_rank(15)
.with_tolerance(1e-4);
registry::register!(F16);
