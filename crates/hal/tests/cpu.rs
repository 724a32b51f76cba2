//! The CPU device: recordings, threads, failures, memory.

use hal::cpu::{CpuDevice, CpuOptions, CpuRecorder, IsaLevel, physical_threads, probe};
use hal::{Access, Buffer, Device, HalError, HostRegion, Recorder};
use std::sync::{Arc, Mutex};

fn device(threads: usize) -> CpuDevice {
    CpuDevice::open(&CpuOptions {
        threads: Some(threads),
        ..CpuOptions::default()
    })
    .unwrap()
}

fn all(b: &Buffer) -> std::ops::Range<u64> {
    0..b.len()
}

/// dst[i] = src[i] + src[n − 1 − i]: every thread reads what others wrote.
fn mirror_add(r: &mut dyn Recorder, src: &Buffer, dst: &Buffer) {
    let r = r.as_any_mut().downcast_mut::<CpuRecorder>().unwrap();
    let n = (src.len() / 4) as usize;
    let (from, to) = (
        r.slice::<u32>(src, 0, n).unwrap(),
        r.slice::<u32>(dst, 0, n).unwrap(),
    );
    let accesses = [Access::read(src, all(src)), Access::write(dst, all(dst))];
    r.task("mirror_add", &accesses, move |ctx| {
        let share = ctx.share(n);
        // SAFETY: declared accesses; threads write disjoint shares.
        let (from, to) = unsafe { (from.get(), to.get_mut(share.start, share.len())) };
        for (o, i) in to.iter_mut().zip(share) {
            *o = from[i].wrapping_add(from[n - 1 - i]);
        }
    });
}

#[test]
fn barriers_order_threads_on_every_replay() {
    for threads in [1, 2, 3, 7] {
        let d = device(threads);
        let n = 1000u32;
        let bytes = u64::from(n) * 4;
        let (a, b) = (d.alloc(bytes, "a").unwrap(), d.alloc(bytes, "b").unwrap());
        let (input, output) = (
            d.mailbox(bytes as usize).unwrap(),
            d.mailbox(bytes as usize).unwrap(),
        );
        let mut r = d.recorder("test").unwrap();
        r.copy_in(&input, &a, 0, bytes).unwrap();
        for _ in 0..10 {
            mirror_add(&mut *r, &a, &b);
            mirror_add(&mut *r, &b, &a);
        }
        r.copy_out(&a, 0, bytes, &output, 0).unwrap();
        let recording = r.finish().unwrap();
        assert_eq!(recording.stats().barriers, 21, "one at each hand-over");
        for run in 0..200u32 {
            let data: Vec<u8> = (0..n).flat_map(|i| (i * 7 + run).to_le_bytes()).collect();
            input.write(0, &data).unwrap();
            recording.run().unwrap();
            let mut out = vec![0; data.len()];
            output.read(0, &mut out).unwrap();
            // After one step all elements equal x[i] + x[n−1−i]; each further doubles.
            let want = ((n - 1) * 7 + 2 * run).wrapping_mul(1 << 19);
            assert!(out.chunks_exact(4).all(|c| c == want.to_le_bytes()));
        }
        let times = recording.run_timed().unwrap();
        assert_eq!(times.len(), 22);
    }
}

#[test]
fn independent_commands_need_no_barrier() {
    let d = device(2);
    let buffers: Vec<Buffer> = (0..6).map(|_| d.alloc(64, "x").unwrap()).collect();
    let mut r = d.recorder("test").unwrap();
    for pair in buffers.chunks(2) {
        mirror_add(&mut *r, &pair[0], &pair[1]);
    }
    assert_eq!(r.finish().unwrap().stats().barriers, 0);
}

#[test]
fn a_panicking_kernel_is_an_error_and_the_device_goes_on() {
    let d = device(3);
    let b = d.alloc(64, "b").unwrap();
    let mut r = d.recorder("test").unwrap();
    let cpu = r.as_any_mut().downcast_mut::<CpuRecorder>().unwrap();
    cpu.task("bad", &[Access::write(&b, all(&b))], |ctx| {
        assert!(ctx.thread != 1, "thread 1 fails");
        ctx.barrier.wait();
    });
    cpu.task("after", &[Access::read(&b, all(&b))], |_| {});
    let recording = r.finish().unwrap();
    for _ in 0..3 {
        let e = recording.run().unwrap_err();
        assert!(
            matches!(&e, HalError::Kernel { step, .. } if step == "bad"),
            "{e}"
        );
    }
    let mut r = d.recorder("test").unwrap();
    mirror_add(&mut *r, &b, &b);
    r.finish().unwrap().run().unwrap();
}

#[test]
fn ranges_are_checked() {
    let d = device(1);
    let b = d.alloc(16, "b").unwrap();
    let outside = |r: hal::Result<()>| assert!(matches!(r, Err(HalError::OutOfRange { .. })));
    outside(d.upload(&b, 8, &[0; 9]));
    outside(d.upload(&b, u64::MAX, &[0; 2]));
    outside(d.download(&b, 16, &mut [0]));
    let mut r = d.recorder("test").unwrap();
    outside(r.copy(&b, 0, &b, 8, 16));
    let cpu = r.as_any_mut().downcast_mut::<CpuRecorder>().unwrap();
    outside(cpu.slice::<f32>(&b, 0, usize::MAX).map(|_| ()));
    assert!(cpu.slice::<f32>(&b, 2, 1).is_err(), "misaligned");
    let m = d.mailbox(4).unwrap();
    outside(m.write(2, &[0; 3]));
    outside(m.read(0, &mut [0; 5]));
}

#[test]
fn memory_is_zero_counted_and_refused_when_absurd() {
    let d = device(1);
    let before = d.allocated().0;
    let b = d.alloc(5000, "b").unwrap();
    let mut out = vec![1; 5000];
    d.download(&b, 0, &mut out).unwrap();
    assert!(out.iter().all(|x| *x == 0));
    assert_eq!(d.allocated().0, before + 5000);
    drop(b);
    assert_eq!(d.allocated().0, before);
    assert!(d.allocated().1 >= before + 5000);
    let e = d.alloc(1 << 60, "weights").unwrap_err();
    assert!(matches!(e, HalError::OutOfMemory { .. }), "{e}");
    assert!(d.available_memory() > 0);
}

#[test]
fn imported_memory_is_used_in_place_and_not_written() {
    let d = device(1);
    let owner = Arc::new((0u8..64).collect::<Vec<u8>>());
    let region = HostRegion {
        owner,
        range: 8..40,
    };
    let b = d.import(&region).unwrap().unwrap();
    let mut out = [0; 4];
    d.download(&b, 4, &mut out).unwrap();
    assert_eq!(out, [12, 13, 14, 15]);
    assert!(d.upload(&b, 0, &[1]).is_err());
}

/// In a thread of its own, which is left pinned.
#[test]
fn pinned_threads_keep_to_a_core_each() {
    let cores = physical_threads();
    let places = std::thread::spawn(move || {
        let options = CpuOptions {
            threads: Some(cores),
            pin: true,
            ..CpuOptions::default()
        };
        let d = CpuDevice::open(&options).unwrap();
        let b = d.alloc(4, "x").unwrap();
        let found = Arc::new(Mutex::new(vec![Vec::new(); cores]));
        let mut r = d.recorder("test").unwrap();
        let cpu = r.as_any_mut().downcast_mut::<CpuRecorder>().unwrap();
        let out = found.clone();
        cpu.task("where", &[Access::write(&b, all(&b))], move |ctx| {
            let set = rustix::thread::sched_getaffinity(None).unwrap();
            let of = |cpu: &usize| set.is_set(*cpu);
            let may = (0..rustix::thread::CpuSet::MAX_CPU).filter(of).collect();
            out.lock().unwrap()[ctx.thread] = may;
        });
        r.finish().unwrap().run().unwrap();
        found.lock().unwrap().clone()
    });
    let mut places = places.join().unwrap();
    assert!(places.iter().all(|p| p.len() == 1), "{places:?}");
    places.sort();
    places.dedup();
    assert_eq!(places.len(), cores);
    let more = CpuOptions {
        threads: Some(1024),
        pin: true,
        ..CpuOptions::default()
    };
    let refused = CpuDevice::open(&more).err().unwrap().to_string();
    assert!(refused.contains("1024 threads"), "{refused}");
}

#[test]
fn absurd_options_are_refused() {
    let threads = |n| CpuOptions {
        threads: Some(n),
        ..CpuOptions::default()
    };
    assert!(probe(&threads(0)).is_err());
    assert!(probe(&threads(100_000)).is_err());
    assert!("sse9".parse::<IsaLevel>().is_err());
    let portable = CpuOptions {
        isa: Some(IsaLevel::Portable),
        ..CpuOptions::default()
    };
    let info = probe(&portable).unwrap();
    assert!(info.has("portable") && !info.has("avx2"));
}
