//! Products of bf16 activations with bf16 panels in AMX tiles: 32 rows by 32
//! columns in four tiles of sums, K in steps of 32. Sums are f32; subnormal
//! numbers count as zero.
//!
//! Tile registers are used by the assembly of this file alone, so they keep their
//! contents from one block of it to the next.

use super::matmul::{Job, PackAs, Sink};
use super::plumbing::{Result, Step};
use super::x86::Avx512Bf16;
use hal::cpu::TaskCtx;
use std::arch::asm;
use std::arch::x86_64::*;

struct Tiles {
    job: Job,
}

/// Tile configuration, palette 1: eight tiles of 16 rows by 64 bytes.
#[repr(C, align(64))]
struct TileConfig([u8; 64]);

const CONFIG: TileConfig = {
    let mut c = [0u8; 64];
    c[0] = 1;
    let mut i = 0;
    while i < 8 {
        c[16 + 2 * i] = 64;
        c[48 + i] = 16;
        i += 1;
    }
    TileConfig(c)
};

/// Four 16 × 16 tiles of sums: (rows 0–15, panel 0), (0–15, 1), (16–31, 0),
/// (16–31, 1).
#[repr(C, align(64))]
struct Sums([[[f32; 16]; 16]; 4]);

/// Addresses of four tiles and bytes between their rows.
#[derive(Clone, Copy)]
struct Quad {
    at: [*mut u8; 4],
    stride: usize,
}

impl Quad {
    /// Tiles of 16 rows of two columns of tiles.
    fn of(columns: [*const f32; 2], row: usize, stride: usize) -> Self {
        let at = |c: usize, r: usize| columns[c].wrapping_add(r * stride).cast_mut().cast();
        Quad {
            at: [at(0, row), at(1, row), at(0, row + 16), at(1, row + 16)],
            stride: stride * 4,
        }
    }

    fn scratch(sums: &mut Sums) -> Self {
        Quad {
            at: sums.0.each_mut().map(|tile| tile.as_mut_ptr().cast()),
            stride: 64,
        }
    }
}

/// Sums in the scratch that have yet to go to their output.
struct Pending {
    sink: Sink<Avx512Bf16>,
    first: usize,
    rows: usize,
}

impl Tiles {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn run(&self, ctx: &TaskCtx) {
        // SAFETY: the caller has seen the features.
        let s = unsafe { Avx512Bf16::new() };
        let rows = self.job.rows();
        let a = self.job.packed(s, ctx, rows);
        let steps = self.job.kpad / 32;
        // Sums that need more than a copy take turns in two buffers: reading one
        // at once would wait for its stores, and those for earlier outputs.
        let mut buffers = [Sums([[[0.0; 16]; 16]; 4]), Sums([[[0.0; 16]; 16]; 4])];
        let mut turn = 0;
        let mut pending: Option<Pending> = None;
        // SAFETY: configures the tiles of this thread.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, readonly)) };
        for (range, group) in self.job.items(ctx, rows) {
            let mut sink = self.job.sink(s, group);
            let b = [self.job.panel(group, 0), self.job.panel(group, 1)];
            for first in range.clone().step_by(32) {
                let a0 = a.wrapping_add(first / 16 * steps * 1024);
                let a1 = a0.wrapping_add(steps * 1024);
                let left = (range.end - first).min(32);
                // SAFETY: `steps` tiles of 1 KiB lie at all four addresses (the
                // scratch holds whole blocks of 32 rows); whole tiles of outputs
                // and residuals are in their rows; outputs are this thread's own.
                unsafe {
                    let whole = sink.whole_tiles();
                    if left == 32
                        && let Some((columns, stride)) = whole
                    {
                        match sink.residual() {
                            Some((from, stride)) => load(Quad::of(from, first, stride)),
                            None => zero(),
                        }
                        accumulate([a0, a1], b, steps);
                        store(Quad::of(columns, first, stride));
                        continue;
                    }
                    // A row must not depend on whether its block is whole: where
                    // a whole one starts from the residual, so does this.
                    let from = sink.residual().filter(|_| whole.is_some());
                    if let Some((columns, stride)) = from {
                        for m in 0..left {
                            for (c, column) in columns.into_iter().enumerate() {
                                let row = _mm512_loadu_ps(column.add((first + m) * stride));
                                let to = &mut buffers[turn].0[m / 16 * 2 + c][m % 16];
                                _mm512_store_ps(to.as_mut_ptr(), row);
                            }
                        }
                        sink = sink.without_residual();
                    }
                    let sums = Quad::scratch(&mut buffers[turn]);
                    match from {
                        Some(_) => load(sums),
                        None => zero(),
                    }
                    if left > 16 {
                        accumulate([a0, a1], b, steps);
                    } else {
                        accumulate_narrow(a0, b, steps);
                    }
                    store(sums);
                    if let Some(p) = pending.take() {
                        p.put(s, &buffers[1 - turn]);
                    }
                }
                turn = 1 - turn;
                pending = Some(Pending {
                    sink,
                    first,
                    rows: left,
                });
            }
        }
        if let Some(p) = pending {
            // SAFETY: as above.
            unsafe { p.put(s, &buffers[1 - turn]) };
        }
        // SAFETY: back to the initial state, which is cheap to switch.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

impl Pending {
    /// # Safety
    /// As [`Sink::put`].
    #[inline(always)]
    unsafe fn put(&self, s: Avx512Bf16, sums: &Sums) {
        for m in 0..self.rows {
            let tile = m / 16 * 2;
            // SAFETY: rows of 16 sums; the rest is the caller's promise.
            unsafe {
                let c = [
                    _mm512_load_ps(sums.0[tile][m % 16].as_ptr()),
                    _mm512_load_ps(sums.0[tile + 1][m % 16].as_ptr()),
                ];
                self.sink.put(s, self.first + m, c);
            }
        }
    }
}

/// # Safety
/// Tiles are configured.
#[inline(always)]
unsafe fn zero() {
    // SAFETY: touches tile registers only, as do the blocks below beside what
    // their callers vouch for.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack, nomem),
        );
    }
}

/// # Safety
/// Tiles are configured; the four tiles are readable.
#[inline(always)]
unsafe fn load(q: Quad) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "tileloadd tmm0, [{a} + {stride}*1]",
            "tileloadd tmm1, [{b} + {stride}*1]",
            "tileloadd tmm2, [{c} + {stride}*1]",
            "tileloadd tmm3, [{d} + {stride}*1]",
            a = in(reg) q.at[0],
            b = in(reg) q.at[1],
            c = in(reg) q.at[2],
            d = in(reg) q.at[3],
            stride = in(reg) q.stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            options(nostack, readonly),
        );
    }
}

/// # Safety
/// Tiles are configured; the four tiles are writable.
#[inline(always)]
unsafe fn store(q: Quad) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "tilestored [{a} + {stride}*1], tmm0",
            "tilestored [{b} + {stride}*1], tmm1",
            "tilestored [{c} + {stride}*1], tmm2",
            "tilestored [{d} + {stride}*1], tmm3",
            a = in(reg) q.at[0],
            b = in(reg) q.at[1],
            c = in(reg) q.at[2],
            d = in(reg) q.at[3],
            stride = in(reg) q.stride,
            options(nostack),
        );
    }
}

/// Calls for the sixteen lines of the tile that lies 2 KiB after `$at`.
macro_rules! prefetch_tile {
    ($at:literal) => {
        concat!(
            ".irp line, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n",
            "prefetcht0 [",
            $at,
            " + 2048 + 64*\\line]\n",
            ".endr"
        )
    };
}

/// Adds the products of 32 rows with two panels. The first block of rows finds
/// the panels far away, so they are called for early.
///
/// # Safety
/// Tiles are configured; `steps` ≥ 1 tiles of 1 KiB are readable at each address.
#[inline(always)]
unsafe fn accumulate(a: [*const u8; 2], b: [*const u8; 2], steps: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm4, [{a0} + {stride}*1]",
            "tileloadd tmm6, [{b0} + {stride}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{b1} + {stride}*1]",
            prefetch_tile!("{b0}"),
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{a1} + {stride}*1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            prefetch_tile!("{b1}"),
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a0}, 1024",
            "add {a1}, 1024",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {steps}",
            "jnz 2b",
            a0 = inout(reg) a[0] => _,
            a1 = inout(reg) a[1] => _,
            b0 = inout(reg) b[0] => _,
            b1 = inout(reg) b[1] => _,
            steps = inout(reg) steps => _,
            stride = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        );
    }
}

/// As [`accumulate`] of the first 16 rows.
///
/// # Safety
/// As [`accumulate`].
#[inline(always)]
unsafe fn accumulate_narrow(a: *const u8, b: [*const u8; 2], steps: usize) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!(
            "2:",
            "tileloadd tmm4, [{a} + {stride}*1]",
            prefetch_tile!("{b0}"),
            "tileloadd tmm6, [{b0} + {stride}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            prefetch_tile!("{b1}"),
            "tileloadd tmm7, [{b1} + {stride}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "add {a}, 1024",
            "add {b0}, 1024",
            "add {b1}, 1024",
            "dec {steps}",
            "jnz 2b",
            a = inout(reg) a => _,
            b0 = inout(reg) b[0] => _,
            b1 = inout(reg) b[1] => _,
            steps = inout(reg) steps => _,
            stride = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        );
    }
}

pub fn record(step: &mut Step<'_>) -> Result<()> {
    let body = Tiles {
        job: Job::of(step, PackAs::Bf16Tiles)?,
    };
    // SAFETY: `fits` asked for amx, which includes AVX-512 and its BF16.
    step.task(move |ctx| unsafe { body.run(ctx) })
}
