//! How elementwise kernels share rows among threads.

use hal::cpu::TaskCtx;

/// A run of elements inside one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub row: usize,
    pub first: usize,
    pub len: usize,
}

/// This thread's parts of `rows` rows of `len` elements, cut every `grain`
/// elements, so that one long row keeps all threads busy.
pub fn parts(ctx: &TaskCtx, rows: usize, len: usize, grain: usize) -> impl Iterator<Item = Part> {
    let per_row = len.div_ceil(grain);
    ctx.share(rows * per_row).map(move |i| {
        let first = i % per_row * grain;
        Part {
            row: i / per_row,
            first,
            len: grain.min(len - first),
        }
    })
}
