//! What the device does at most, measured in the same run: copies, reads, and on a
//! CPU the multiply-add rates of its instruction sets, on the threads that run the
//! kernels.

#[cfg(target_arch = "x86_64")]
mod x86;

use anyhow::Result;
use hal::cpu::{CpuDevice, CpuRecorder, TaskCtx};
use hal::{Buffer, Device, DeviceKind, Recording};
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::time::Instant;

/// Buffers are this large where memory allows: several times any cache.
const LARGEST: u64 = 512 << 20;
/// Copies of a recording on a device that is not the host: its start and end take as
/// long as one copy.
const COPIES: usize = 16;
/// Best of so many: a ceiling is what happens undisturbed.
const TRIES: usize = 5;

/// A rate and the instructions that reached it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// 10⁹ operations per second, two for a multiply-add.
    pub gflops_s: f64,
    pub with: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ceilings {
    /// 10⁹ bytes per second, those read and those written.
    pub copy_gbytes_s: Option<f64>,
    pub read_gbytes_s: Option<f64>,
    pub f32: Option<Rate>,
    pub bf16: Option<Rate>,
    pub int8: Option<Rate>,
}

impl Ceilings {
    /// What reading kernels are held against.
    pub fn bandwidth(&self) -> Option<f64> {
        self.read_gbytes_s.or(self.copy_gbytes_s)
    }

    /// The rate for an activation format, 10⁹ per second.
    pub fn compute(&self, act: &str) -> Option<f64> {
        let rate = match act {
            "f32" => &self.f32,
            "bf16" => &self.bf16,
            _ if act.starts_with("q8") => &self.int8,
            _ => return None,
        };
        rate.as_ref().map(|r| r.gflops_s)
    }

    pub fn table(&self) -> String {
        let mut all = Vec::new();
        let bandwidths = [("copy", self.copy_gbytes_s), ("read", self.read_gbytes_s)];
        for (name, rate) in bandwidths {
            all.extend(rate.map(|r| format!("{name} {r:.1} GB/s")));
        }
        for (name, rate) in [
            ("f32", &self.f32),
            ("bf16", &self.bf16),
            ("int8", &self.int8),
        ] {
            let rate = rate.as_ref();
            all.extend(rate.map(|r| format!("{name} {:.0} Gop/s ({})", r.gflops_s, r.with)));
        }
        format!("  ceilings {}\n", all.join(", "))
    }
}

/// Measures a device. What it cannot tell is left out.
pub fn measure(device: &dyn Device) -> Result<Ceilings> {
    let mut found = Ceilings::default();
    let half = (device.available_memory() / 8).min(LARGEST) & !0xfff;
    if half >= 1 << 20 {
        let buffer = |label| -> Result<Buffer> {
            let buffer = device.alloc(half, label)?;
            // Pages that nobody wrote to may all be the same one.
            device.fill(&buffer, 0, half, &mut |bytes| bytes.fill(0x5a))?;
            Ok(buffer)
        };
        let (from, to) = (buffer("copied from")?, buffer("copied to")?);
        let mut recorder = device.recorder("copy")?;
        let copies = match device.info().kind {
            DeviceKind::Cpu => 1,
            _ => COPIES,
        };
        for _ in 0..copies {
            recorder.copy(&from, 0, &to, 0, half)?;
        }
        let seconds = best(&*recorder.finish()?)? / copies as f64;
        found.copy_gbytes_s = Some(2.0 * half as f64 / seconds / 1e9);
        if let Some(recording) = reading(device, &from)? {
            found.read_gbytes_s = Some(half as f64 / best(&*recording)? / 1e9);
        }
    }
    if device.as_any().is::<CpuDevice>() {
        products(device, &mut found)?;
    }
    Ok(found)
}

fn best(recording: &dyn Recording) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        let start = Instant::now();
        recording.run()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// A recording that reads a buffer of the CPU's once.
fn reading(device: &dyn Device, buffer: &Buffer) -> Result<Option<Box<dyn Recording>>> {
    let mut recorder = device.recorder("read")?;
    let Some(cpu) = recorder.as_any_mut().downcast_mut::<CpuRecorder>() else {
        return Ok(None);
    };
    let words = cpu.slice::<u64>(buffer, 0, (buffer.len() / 8) as usize)?;
    let accesses = [hal::Access::read(buffer, 0..buffer.len())];
    cpu.task("read", &accesses, move |ctx| {
        let share = ctx.share(words.len());
        // SAFETY: a declared read; nobody writes.
        let words = unsafe { words.get() };
        black_box(sum(&words[share]));
    });
    Ok(Some(recorder.finish()?))
}

/// `ahead` sees every address that is read: kernels call for memory early, so the
/// ceiling does.
#[inline(always)]
fn sum_lanes(words: &[u64], ahead: impl Fn(*const u64)) -> u64 {
    let mut lanes = [0u64; 32];
    let (chunks, rest) = words.as_chunks::<32>();
    for chunk in chunks {
        ahead(chunk.as_ptr());
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane ^= word;
        }
    }
    lanes.iter().chain(rest).fold(0, |a, b| a ^ b)
}

fn sum(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if let Some(sum) = x86::sum(words) {
        return sum;
    }
    sum_lanes(words, |_| ())
}

/// A loop of multiply-adds: runs so many rounds.
pub(crate) struct Loop {
    pub with: &'static str,
    /// Operations of a round.
    pub ops: f64,
    pub run: fn(u64),
}

fn products(device: &dyn Device, found: &mut Ceilings) -> Result<()> {
    let mut f32_loops = vec![Loop {
        with: "portable",
        ops: 2.0 * LANES as f64,
        run: portable,
    }];
    let (mut bf16_loops, mut int8_loops) = (Vec::new(), Vec::new());
    #[cfg(target_arch = "x86_64")]
    {
        let has = |feature: &str| device.info().has(feature);
        f32_loops.extend(x86::f32_loops(&has));
        bf16_loops.extend(x86::bf16_loops(&has));
        int8_loops.extend(x86::int8_loops(&has));
    }
    for (loops, place) in [
        (f32_loops, &mut found.f32),
        (std::mem::take(&mut bf16_loops), &mut found.bf16),
        (std::mem::take(&mut int8_loops), &mut found.int8),
    ] {
        for l in loops {
            let rate = Rate {
                gflops_s: rate(device, &l)?,
                with: l.with.into(),
            };
            if place.as_ref().is_none_or(|p| p.gflops_s < rate.gflops_s) {
                *place = Some(rate);
            }
        }
    }
    Ok(())
}

fn rate(device: &dyn Device, l: &Loop) -> Result<f64> {
    let mut rounds = 1u64 << 12;
    loop {
        let mut recorder = device.recorder("products")?;
        let mut threads = 1;
        if let Some(cpu) = recorder.as_any_mut().downcast_mut::<CpuRecorder>() {
            threads = cpu.threads();
            let run = l.run;
            cpu.task(l.with, &[], move |_: &TaskCtx<'_>| run(rounds));
        }
        let seconds = best(&*recorder.finish()?)?;
        if seconds > 0.02 || rounds > 1 << 40 {
            return Ok(l.ops * rounds as f64 * threads as f64 / seconds / 1e9);
        }
        rounds *= 4;
    }
}

const LANES: usize = 64;

fn portable(rounds: u64) {
    let (a, b) = (black_box(0.999f32), black_box(0.001f32));
    let mut x = [black_box(1f32); LANES];
    for _ in 0..rounds {
        for x in &mut x {
            *x = *x * a + b;
        }
    }
    black_box(x);
}

#[cfg(test)]
mod tests {
    use super::*;
    use hal::cpu::{CpuOptions, IsaLevel};

    #[test]
    fn a_cpu_has_every_bandwidth_and_a_rate_at_any_level() {
        for isa in IsaLevel::ALL {
            let options = CpuOptions {
                threads: Some(1),
                isa: Some(*isa),
                ..Default::default()
            };
            let Ok(device) = CpuDevice::open(&options) else {
                continue;
            };
            let mut found = Ceilings::default();
            products(&device, &mut found).unwrap();
            let positive = |r: &Option<Rate>| r.as_ref().is_none_or(|r| r.gflops_s > 0.0);
            assert!(found.f32.is_some() && positive(&found.f32));
            assert!(positive(&found.bf16) && positive(&found.int8));
            assert_eq!(found.compute("f32"), found.f32.map(|r| r.gflops_s));
        }
    }

    #[test]
    fn sums_see_every_word() {
        let words: Vec<u64> = (0..1000).map(|i| 1 << (i % 64)).collect();
        let plain = words.iter().fold(0, |a, b| a ^ b);
        assert_eq!((sum(&words), sum_lanes(&words, |_| ())), (plain, plain));
        assert_eq!(sum(&[]), 0);
    }
}
