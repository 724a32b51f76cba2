//! Products of bf16 activations with panels in AMX tiles: 32 rows by 32 columns in
//! four tiles of sums, K in steps of 32. Panels of bf16 are tiles already; those of
//! block schemes are decoded and rounded to bf16 once for up to 512 rows. Sums are
//! f32; subnormal numbers count as zero.
//!
//! A core's L2 feeds the tiles nearly as fast as they multiply, memory and L3 do not
//! by far. So K is walked in blocks: the activations of one stay in L2 while a few
//! groups of panels pass, whose sums wait there for the next block.
//!
//! Tile registers are used by the assembly of this file alone, so they keep their
//! contents from one block of it to the next.

use super::layout::pad_k;
use super::matmul::{self, Group, Job, PackAs};
use super::matmul_f32::PREFETCH;
use super::matmul_sink::Sink;
use super::plumbing::{Result, Step};
use super::q_codes::{Codes, QUADS};
use super::q_scheme::{BlockScheme, with_scheme};
use super::q_sides::Sides;
use super::simd::Simd;
use super::x86::{Avx512, Avx512Bf16};
use hal::cpu::TaskCtx;
use registry::Problem;
use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

/// Bytes of a tile.
pub const TILE: usize = 1024;

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

/// Configures the tiles of this thread: eight of 16 rows by 64 bytes.
///
/// # Safety
/// The CPU has AMX, and the process may use it.
#[inline(always)]
pub unsafe fn configure() {
    // SAFETY: as the caller promises.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, readonly)) };
}

/// Back to the initial state, which is cheap to switch.
///
/// # Safety
/// As [`configure`].
#[inline(always)]
pub unsafe fn release() {
    // SAFETY: as the caller promises.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// Four 16 × 16 tiles of sums: (rows 0–15, panel 0), (0–15, 1), (16–31, 0),
/// (16–31, 1).
#[repr(C, align(64))]
struct Sums([[[f32; 16]; 16]; 4]);

/// Addresses of four tiles of 1 KiB.
type Quad = [*mut u8; 4];

fn quad(at: *mut f32) -> Quad {
    [0, 1, 2, 3].map(|i| at.wrapping_add(i * 256).cast())
}

/// Rows that meet the panels of a thread in turn.
const ROWS: usize = 512;
/// Bytes of activations that a core's L2 keeps beside everything else.
const SLAB_BYTES: usize = 1 << 20;
/// Groups whose sums are kept while K is walked block by block.
const CHUNK: usize = 16;
/// Rows from which on outputs are more than the caches would keep anyway: written
/// past them they need not be read first.
const STREAMED: usize = 128;
/// K is cut at whole spans of every scheme.
const SPAN: usize = 256;

/// Elements of K in a block: the activations of all rows of a block stay in L2
/// while a chunk of panels passes.
fn block_of(k: usize, rows: usize) -> usize {
    let rows = rows.min(ROWS).next_multiple_of(32);
    match SLAB_BYTES / (2 * rows) / SPAN * SPAN {
        most if most < pad_k(k) => most.max(SPAN),
        _ => pad_k(k),
    }
}

/// Bytes of each thread's scratch: two panels of a block as tiles, then sums that
/// wait for the next block.
fn own_bytes(p: &Problem) -> usize {
    let (k, rows) = (matmul::depth(p), p.rows.max);
    let block = block_of(k, rows);
    let sums = match block < pad_k(k) {
        true => CHUNK * rows.min(ROWS).next_multiple_of(32) * 32 * 4,
        false => 0,
    };
    2 * block * 32 + sums
}

/// Bytes of a problem's scratch.
pub fn workspace(p: &Problem) -> u64 {
    matmul::workspace(p, PackAs::Bf16Tiles) + (own_bytes(p) * p.device.threads) as u64
}

struct Tiles {
    job: Job,
    /// Elements of K in a block.
    block: usize,
    own: usize,
}

/// Sums in the scratch that have yet to go to their output.
struct Pending {
    sink: Sink<Avx512Bf16>,
    first: usize,
    rows: usize,
    /// Whether the outputs are whole vectors that may pass the caches by.
    whole: bool,
}

impl Tiles {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
    unsafe fn run(&self, ctx: &TaskCtx) {
        // SAFETY: the caller has seen the features.
        let s = unsafe { Avx512Bf16::new() };
        let rows = self.job.rows();
        let a = self.job.packed(s, ctx, rows);
        let own = self.job.own_slot(ctx, self.own);
        // SAFETY: the CPU has them.
        unsafe { configure() };
        for (range, groups) in self.job.runs(ctx, rows, ROWS) {
            for chunk in groups.chunks(CHUNK) {
                // SAFETY: the rows are packed; the scratch and the outputs of the
                // chunk in these rows are this thread's own.
                unsafe { self.chunk(s, a, range.clone(), chunk, own) };
            }
        }
        // SAFETY: as above; what passed
        // the caches by is there before another thread is told so.
        unsafe {
            release();
            _mm_sfence();
        }
    }

    /// Rows times the panels of a few groups.
    ///
    /// # Safety
    /// Tiles are configured; all rows lie packed at `a`; the scratch has the size
    /// of [`own_bytes`]; this thread alone has the outputs.
    #[inline(always)]
    unsafe fn chunk(
        &self,
        s: Avx512Bf16,
        a: *const u8,
        range: Range<usize>,
        groups: &[Group],
        own: *mut u8,
    ) {
        let steps = self.job.kpad / 32;
        let block = self.block / 32;
        let blocks = range.len().div_ceil(32);
        let waiting = own.wrapping_add(2 * block * TILE).cast::<f32>();
        // Reading sums at once would wait for their stores: they take turns.
        let mut buffers = [Sums([[[0.0; 16]; 16]; 4]), Sums([[[0.0; 16]; 16]; 4])];
        let mut turn = 0;
        let mut pending: Option<Pending> = None;
        for from in (0..steps).step_by(block) {
            let count = block.min(steps - from);
            let (opens, closes) = (from == 0, from + count == steps);
            for (g, group) in groups.iter().enumerate() {
                let sink = self.job.sink(s, group);
                let plain = self.job.kind(group).is_none();
                let whole = range.len() >= STREAMED && sink.is_whole();
                // SAFETY: here and below, as the caller promises.
                let b = unsafe { self.tiles_of(group, from..from + count, own) };
                for (i, first) in range.clone().step_by(32).enumerate() {
                    let a0 = a.wrapping_add((first / 16 * steps + from) * TILE);
                    let a1 = a0.wrapping_add(steps * TILE);
                    let left = (range.end - first).min(32);
                    let kept = quad(waiting.wrapping_add((g * blocks + i) * 1024));
                    // SAFETY: as above; tiles of the scratch.
                    unsafe {
                        match opens {
                            true => zero(),
                            false => load(kept),
                        }
                        accumulate([a0, a1], b, count, left, plain && i == 0);
                        if !closes {
                            store(kept);
                            continue;
                        }
                        store(quad(buffers[turn].0.as_mut_ptr().cast()));
                        if let Some(p) = pending.take() {
                            p.put(s, &buffers[1 - turn]);
                        }
                    }
                    turn = 1 - turn;
                    pending = Some(Pending {
                        sink,
                        first,
                        rows: left,
                        whole,
                    });
                }
            }
        }
        if let Some(p) = pending {
            // SAFETY: as above.
            unsafe { p.put(s, &buffers[1 - turn]) };
        }
    }

    /// The tiles of two panels for some steps of K: where they are, or, of block
    /// schemes, made in the scratch. A single panel stands for both.
    ///
    /// # Safety
    /// The scratch has room for a block of two panels.
    #[inline(always)]
    unsafe fn tiles_of(&self, group: &Group, steps: Range<usize>, own: *mut u8) -> [*const u8; 2] {
        let panels = [self.job.panel(group, 0), self.job.panel(group, 1)];
        let Some(kind) = self.job.kind(group) else {
            return panels.map(|p| p.wrapping_add(steps.start * TILE));
        };
        let mut at = [own.cast_const(); 2];
        for (i, panel) in panels.into_iter().enumerate().take(group.count) {
            let to = own.wrapping_add(i * steps.len() * TILE);
            at[i..].fill(to);
            // SAFETY: as the caller promises; a panel has all steps of K.
            with_scheme!(kind, W => unsafe {
                unpack::<W>(panel, self.job.kpad / 32, steps.clone(), to)
            });
        }
        at
    }
}

/// Makes bf16 tiles of some steps of a panel, `[16 pairs of k][16 n][2 k]` each.
/// Products of scales, codes and mins are exact in f32, so an element is rounded
/// as if it had been decoded first.
///
/// # Safety
/// AVX-512 with BF16. The panel has `all` steps of K; `steps` are whole spans of
/// it; there is room for them at `to`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")]
unsafe fn unpack<W: BlockScheme>(panel: *const u8, all: usize, steps: Range<usize>, to: *mut u8) {
    const INTERLEAVE: [u16; 32] = {
        let mut at = [0; 32];
        let mut i = 0;
        while i < 32 {
            at[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        at
    };
    // SAFETY: as the caller promises; prefetching faults nowhere.
    unsafe {
        let s = Avx512::new();
        let interleave = _mm512_loadu_si512(INTERLEAVE.as_ptr().cast());
        let byte = _mm512_set1_epi32(0xff);
        let sides = panel.add(all * W::Codes::BYTES);
        let parts = if W::Sides::HALVES { 2 } else { 1 };
        for span in steps.start / W::Sides::STEPS..steps.end / W::Sides::STEPS {
            let side = sides.add(span * W::Sides::BYTES);
            s.prefetch(side.wrapping_add(PREFETCH / 4));
            let (d, dmin) = W::Sides::factors(s, side);
            for j in 0..W::Sides::STEPS {
                let step = span * W::Sides::STEPS + j;
                let codes = panel.add(step * W::Codes::BYTES);
                for line in (0..W::Codes::BYTES).step_by(64) {
                    s.prefetch(codes.wrapping_add(PREFETCH + line));
                }
                let tile = to.add((step - steps.start) * TILE).cast::<__m512i>();
                let quads = W::Codes::quads(s, codes);
                let each = QUADS / parts;
                for part in 0..parts {
                    let i = j * parts + part;
                    let (mut scale, mut min) = (d, dmin);
                    if !W::Sides::FLAT {
                        scale = s.mul(d, W::Sides::scale(s, side, i));
                    }
                    if !W::Sides::MINS {
                        min = s.mul(scale, s.splat(W::ZERO as f32));
                    } else if !W::Sides::FLAT {
                        min = s.mul(dmin, W::Sides::min(s, side, i));
                    }
                    let mine = quads.into_iter().enumerate().skip(part * each).take(each);
                    for (q, codes) in mine {
                        let element =
                            |codes| _mm512_fmsub_ps(_mm512_cvtepi32_ps(codes), scale, min);
                        let k = [
                            element(_mm512_and_si512(codes, byte)),
                            element(_mm512_and_si512(_mm512_srli_epi32::<8>(codes), byte)),
                            element(_mm512_and_si512(_mm512_srli_epi32::<16>(codes), byte)),
                            element(_mm512_srli_epi32::<24>(codes)),
                        ];
                        for half in 0..2 {
                            let both = _mm512_cvtne2ps_pbh(k[2 * half + 1], k[2 * half]);
                            // Both types are 512 plain bits.
                            let both = std::mem::transmute::<__m512bh, __m512i>(both);
                            let pairs = _mm512_permutexvar_epi16(interleave, both);
                            _mm512_store_si512(tile.add(2 * q + half), pairs);
                        }
                    }
                }
            }
        }
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
                match self.whole {
                    true => {
                        let stream = |to, y, _| _mm512_stream_ps(to, y);
                        self.sink.finish(s, self.first + m, c, stream)
                    }
                    false => self.sink.put(s, self.first + m, c),
                }
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
            a = in(reg) q[0],
            b = in(reg) q[1],
            c = in(reg) q[2],
            d = in(reg) q[3],
            stride = in(reg) 64usize,
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
            a = in(reg) q[0],
            b = in(reg) q[1],
            c = in(reg) q[2],
            d = in(reg) q[3],
            stride = in(reg) 64usize,
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

/// A loop over steps of K: 32 rows times two panels.
macro_rules! wide {
    ($name:ident, $first:expr, $second:expr) => {
        /// # Safety
        /// Tiles are configured; `steps` ≥ 1 tiles of 1 KiB are readable at each
        /// address.
        #[inline(always)]
        unsafe fn $name(a: [*const u8; 2], b: [*const u8; 2], steps: usize) {
            // SAFETY: as the caller promises; prefetching faults nowhere.
            unsafe {
                asm!(
                    "2:",
                    "tileloadd tmm4, [{a0} + {stride}*1]",
                    "tileloadd tmm6, [{b0} + {stride}*1]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b1} + {stride}*1]",
                    $first,
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{a1} + {stride}*1]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    $second,
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
    };
}

/// The same of 16 rows.
macro_rules! narrow {
    ($name:ident, $first:expr, $second:expr) => {
        /// # Safety
        /// As of the wide loops.
        #[inline(always)]
        unsafe fn $name(a: *const u8, b: [*const u8; 2], steps: usize) {
            // SAFETY: as the caller promises; prefetching faults nowhere.
            unsafe {
                asm!(
                    "2:",
                    "tileloadd tmm4, [{a} + {stride}*1]",
                    $first,
                    "tileloadd tmm6, [{b0} + {stride}*1]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    $second,
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
    };
}

// Panels that come from memory are called for early; others are in L2.
wide!(wide_far, prefetch_tile!("{b0}"), prefetch_tile!("{b1}"));
wide!(wide_near, "", "");
narrow!(narrow_far, prefetch_tile!("{b0}"), prefetch_tile!("{b1}"));
narrow!(narrow_near, "", "");

/// Adds the products of up to 32 rows with two panels to the four tiles of sums.
///
/// # Safety
/// Tiles are configured; `steps` ≥ 1 tiles are readable at each address, at the
/// second of `a` if there are more than 16 rows.
#[inline(always)]
unsafe fn accumulate(a: [*const u8; 2], b: [*const u8; 2], steps: usize, rows: usize, far: bool) {
    // SAFETY: as the caller promises.
    unsafe {
        match (rows > 16, far) {
            (true, true) => wide_far(a, b, steps),
            (true, false) => wide_near(a, b, steps),
            (false, true) => narrow_far(a[0], b, steps),
            (false, false) => narrow_near(a[0], b, steps),
        }
    }
}

pub fn record(step: &mut Step<'_>) -> Result<()> {
    let own = own_bytes(step.problem);
    let block = block_of(matmul::depth(step.problem), step.problem.rows.max);
    let body = Tiles {
        job: Job::with_slots(step, PackAs::Bf16Tiles, own)?,
        block,
        own,
    };
    // SAFETY: `fits` asked for amx, which includes AVX-512 and its BF16.
    step.task(move |ctx| unsafe { body.run(ctx) })
}
