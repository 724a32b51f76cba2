//! The CUDA device. Without a driver or a device a test of it says so and passes;
//! what happens then is tested too. Launches are tested beside the kernels, by ring
//! 2 in `kernels/cuda_sm86`.

use hal::cuda::{CudaDevice, probe};
use hal::{Buffer, Device, DeviceKind, HalError};

fn open() -> Option<CudaDevice> {
    let opened = probe(80).and_then(|all| CudaDevice::open(all.first().map_or(0, |d| d.index)));
    match opened {
        Ok(device) => Some(device),
        Err(e) => {
            eprintln!("skipped: {e}");
            None
        }
    }
}

fn bytes(n: usize, seed: usize) -> Vec<u8> {
    (0..n).map(|i| ((i * 31 + seed * 7) % 251) as u8).collect()
}

fn read(device: &CudaDevice, buffer: &Buffer) -> Vec<u8> {
    let mut out = vec![0xa5; buffer.len() as usize];
    device.download(buffer, 0, &mut out).expect("a download");
    out
}

#[test]
fn a_machine_without_a_driver_gets_an_error_that_says_so() {
    match (probe(80), CudaDevice::open(0)) {
        (Ok(all), _) => {
            for d in &all {
                assert_eq!((d.api, d.subgroup), ("cuda", 32));
                assert!(!d.name.is_empty() && d.memory_total > 0);
                assert_eq!(d.uuid.as_deref().map(str::len), Some(36));
                assert!(d.has("sm_80"));
                assert!(d.kind <= DeviceKind::Integrated);
            }
        }
        (Err(a), Err(b)) => {
            for e in [a, b] {
                assert!(
                    matches!(e, HalError::NoDriver { .. } | HalError::NoDevice { .. }),
                    "{e}"
                );
                assert!(e.to_string().starts_with("cuda: no "), "{e}");
            }
        }
        (Err(e), Ok(_)) => panic!("probing fails with {e}, and yet a device opens"),
    }
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let error = CudaDevice::open(1_000_000).err().expect("no such device");
    assert!(error.to_string().starts_with("cuda: "), "{error}");
}

#[test]
fn no_device_is_new_enough_for_the_far_future() {
    let error = probe(10_000).expect_err("no such device");
    let text = error.to_string();
    match error {
        HalError::NoDevice { .. } => {}
        HalError::NoDriver { .. } => assert!(text.contains("driver"), "{text}"),
        other => panic!("{other}"),
    }
}

#[test]
fn memory_is_zeroed_and_holds_what_is_uploaded() {
    let Some(device) = open() else { return };
    for round in 0..3 {
        let sizes = [0, 1, 3, 255, 256, 4097, 1 << 20, 20 << 20, 70 << 20];
        let buffers: Vec<_> = sizes
            .iter()
            .map(|&n| device.alloc(n, "test").expect("memory"))
            .collect();
        for (i, b) in buffers.iter().enumerate() {
            assert!(read(&device, b).iter().all(|&v| v == 0), "{b:?}");
            device
                .upload(b, 0, &bytes(b.len() as usize, i))
                .expect("an upload");
        }
        for (i, b) in buffers.iter().enumerate() {
            assert!(
                read(&device, b) == bytes(b.len() as usize, i),
                "{b:?} in {round}"
            );
        }
        device
            .upload(&buffers[5], 33, &[1, 2, 3])
            .expect("an upload");
        let mut part = [0; 5];
        device
            .download(&buffers[5], 32, &mut part)
            .expect("a download");
        let old = bytes(4097, 5);
        assert_eq!(part, [old[32], 1, 2, 3, old[36]]);
        assert_eq!(device.allocated().0, sizes.iter().sum::<u64>());
    }
    assert_eq!(device.allocated().0, 0);
    assert!(device.available_memory() > 0);
}

#[test]
fn recordings_copy_between_mailboxes_with_one_launch_each() {
    let Some(device) = open() else { return };
    let (inbox, outbox) = (
        device.mailbox(1000).expect("a mailbox"),
        device.mailbox(600).expect("a mailbox"),
    );
    let a = device.alloc(1000, "a").expect("memory");
    let b = device.alloc(1000, "b").expect("memory");
    let other = device.alloc(1000, "other").expect("memory");
    let mut r = device.recorder("copies").expect("a recorder");
    r.copy_in(&inbox, &a, 0, 500).expect("a copy");
    r.copy(&other, 0, &other, 500, 500).expect("a copy");
    r.copy(&a, 0, &b, 100, 500).expect("a copy");
    r.copy(&a, 500, &b, 600, 100).expect("a copy");
    r.copy_out(&b, 100, 500, &outbox, 100).expect("a copy");
    let recording = r.finish().expect("a recording");
    let stats = recording.stats();
    assert_eq!((stats.commands, stats.barriers), (5, 2));
    let before = device.launches();
    for run in 0..200 {
        inbox.write(0, &bytes(500, run)).expect("a write");
        recording.run().expect("a run");
        let mut out = vec![0; 500];
        outbox.read(100, &mut out).expect("a read");
        assert!(out == bytes(500, run), "run {run}");
    }
    assert_eq!(device.launches() - before, 200, "one launch for each run");
    let times = recording.run_timed().expect("times");
    assert_eq!(times.len(), 5);
    assert_eq!(times[0].label, "copies/copy_in");
    assert!(times.iter().all(|t| t.seconds >= 0.0 && t.seconds < 60.0));
}

#[test]
fn what_is_out_of_range_is_refused() {
    let Some(device) = open() else { return };
    let a = device.alloc(100, "a").expect("memory");
    let mailbox = device.mailbox(10).expect("a mailbox");
    let outside = |r: Result<(), HalError>| matches!(r, Err(HalError::OutOfRange { .. }));
    assert!(outside(device.upload(&a, 99, &[1, 2])));
    assert!(outside(device.upload(&a, u64::MAX, &[1, 2])));
    assert!(outside(device.download(&a, 101, &mut [])));
    assert!(outside(mailbox.write(9, &[1, 2])));
    assert!(outside(mailbox.read(usize::MAX, &mut [0])));
    let mut r = device.recorder("bad").expect("a recorder");
    assert!(outside(r.copy(&a, 0, &a, 60, 41)));
    assert!(outside(r.copy_in(&mailbox, &a, 0, 11)));
    assert!(outside(r.copy_out(&a, 0, 11, &mailbox, 0)));
    let overlap = r.copy(&a, 0, &a, 10, 20);
    assert!(overlap.is_err_and(|e| e.to_string().contains("overlap")));
    let empty = r.finish().expect("a recording");
    assert_eq!(empty.stats().commands, 0);
    empty.run().expect("a run of nothing");
    assert!(empty.run_timed().expect("times").is_empty());
}

#[test]
fn too_much_memory_is_an_error_that_says_how_much() {
    let Some(device) = open() else { return };
    for n in [1 << 50, u64::MAX] {
        match device.alloc(n, "absurd") {
            Err(HalError::OutOfMemory { bytes, label, .. }) => {
                assert_eq!((bytes, label.as_str()), (n, "absurd"));
            }
            other => panic!("{n} bytes gave {other:?}"),
        }
    }
    assert_eq!(device.allocated(), (0, 0));
}
