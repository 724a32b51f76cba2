//! The Vulkan device under validation. Without a device or the validation layer
//! a test says so and passes, except where `CI=true` promises both. Dispatches
//! are tested beside the shaders, in `kernels/vulkan`.

use hal::vulkan::{VulkanDevice, VulkanOptions, probe};
use hal::{Buffer, Device, DeviceKind, HalError};

fn open(options: VulkanOptions) -> Option<VulkanDevice> {
    let options = VulkanOptions {
        validation: true,
        ..options
    };
    let opened = probe().and_then(|all| {
        let index = all.first().map_or(0, |d| d.index);
        VulkanDevice::open(index, &options)
    });
    match opened {
        Ok(device) => Some(device),
        Err(e) if std::env::var("CI").is_ok_and(|v| v == "true") => panic!("{e}"),
        Err(e) => {
            eprintln!("skipped: {e}");
            None
        }
    }
}

/// Both ways in which host data reaches a device.
fn devices() -> Vec<VulkanDevice> {
    let staged = VulkanOptions {
        staging: true,
        ..VulkanOptions::default()
    };
    [VulkanOptions::default(), staged]
        .into_iter()
        .filter_map(open)
        .collect()
}

/// Nothing was said while the device lived, nor while it went away.
fn silent(device: VulkanDevice) {
    let log = device.validation().expect("validation runs");
    drop(device);
    assert_eq!(log.messages(), Vec::<String>::new());
}

fn bytes(n: usize, seed: usize) -> Vec<u8> {
    (0..n).map(|i| ((i * 31 + seed * 7) % 251) as u8).collect()
}

fn read(device: &VulkanDevice, buffer: &Buffer) -> Vec<u8> {
    let mut out = vec![0xa5; buffer.len() as usize];
    device.download(buffer, 0, &mut out).expect("a download");
    out
}

#[test]
fn probed_devices_are_described_and_ordered() {
    let Ok(all) = probe() else { return };
    for d in &all {
        assert_eq!(d.api, "vulkan");
        assert!(!d.name.is_empty() && d.memory_total > 0 && d.subgroup > 0);
        let uuid = d.uuid.as_deref().expect("a uuid");
        assert_eq!((uuid.len(), uuid.matches('-').count()), (36, 4));
        assert_eq!(
            d.kind == DeviceKind::Software,
            d.name.contains("llvmpipe") || d.name.contains("SwiftShader"),
        );
    }
    assert!(all.is_sorted_by_key(|d| d.kind));
}

#[test]
fn memory_is_zeroed_and_holds_what_is_uploaded() {
    for device in devices() {
        for round in 0..3 {
            let sizes = [0, 1, 3, 255, 256, 4097, 1 << 20, 20 << 20];
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
            // A part, at an odd offset.
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
        silent(device);
    }
}

#[test]
fn many_small_buffers_share_few_allocations() {
    let Some(device) = open(VulkanOptions::default()) else {
        return;
    };
    // More than the 4096 allocations that a driver has to allow.
    let mut buffers: Vec<_> = (0..5000)
        .map(|_| device.alloc(300, "small").expect("memory"))
        .collect();
    for b in buffers.iter().step_by(499) {
        device.upload(b, 0, &[7; 300]).expect("an upload");
    }
    for (i, b) in buffers.iter().enumerate() {
        let want = if i % 499 == 0 { 7 } else { 0 };
        if i % 499 < 2 {
            assert_eq!(read(&device, b), vec![want; 300]);
        }
    }
    let mut n = 0;
    buffers.retain(|_| {
        n += 1;
        n % 2 == 0
    });
    let again = device.alloc(300, "small").expect("memory");
    assert_eq!(
        read(&device, &again),
        vec![0; 300],
        "memory used before is zeroed"
    );
    drop((buffers, again));
    silent(device);
}

/// `mailbox → a → b → mailbox`, with one copy that touches nothing else.
#[test]
fn recordings_copy_between_mailboxes_with_one_submit_each() {
    for device in devices() {
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
        // One before a is read, one before b is read.
        assert_eq!((stats.commands, stats.barriers), (5, 2));

        let before = device.submits();
        for run in 0..200 {
            inbox.write(0, &bytes(500, run)).expect("a write");
            recording.run().expect("a run");
            let mut out = vec![0; 500];
            outbox.read(100, &mut out).expect("a read");
            assert!(out == bytes(500, run), "run {run}");
        }
        assert_eq!(device.submits() - before, 200, "one submit for each run");

        let times = recording.run_timed().expect("times");
        let again = recording.run_timed().expect("times");
        assert_eq!((times.len(), again.len()), (5, 5));
        assert_eq!(times[0].label, "copies/copy_in");
        assert!(times.iter().all(|t| t.seconds >= 0.0 && t.seconds < 60.0));
        drop((recording, inbox, outbox, a, b, other));
        silent(device);
    }
}

#[test]
fn what_is_out_of_range_is_refused() {
    let Some(device) = open(VulkanOptions::default()) else {
        return;
    };
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
    assert_eq!(r.finish().expect("a recording").stats().commands, 0);
    drop((a, mailbox));
    silent(device);
}

#[test]
fn objects_of_another_device_are_refused() {
    let (Some(device), Some(other)) = (
        open(VulkanOptions::default()),
        open(VulkanOptions::default()),
    ) else {
        return;
    };
    let theirs = other.alloc(64, "theirs").expect("memory");
    let wrong = |r: Result<(), HalError>| matches!(r, Err(HalError::WrongDevice { .. }));
    assert!(wrong(device.upload(&theirs, 0, &[0])));
    let cpu = hal::cpu::CpuDevice::open(&hal::cpu::CpuOptions {
        threads: Some(1),
        ..Default::default()
    })
    .expect("a CPU");
    let host = cpu.alloc(64, "host").expect("memory");
    assert!(wrong(device.upload(&host, 0, &[0])));
    let mailbox = cpu.mailbox(16).expect("a mailbox");
    let mut r = device.recorder("wrong").expect("a recorder");
    assert!(wrong(r.copy_in(&mailbox, &theirs, 0, 4)));
    drop((r, theirs));
    silent(device);
    silent(other);
}

#[test]
fn too_much_memory_is_an_error_that_says_how_much() {
    let Some(device) = open(VulkanOptions::default()) else {
        return;
    };
    for n in [1 << 50, u64::MAX] {
        match device.alloc(n, "absurd") {
            Err(HalError::OutOfMemory { bytes, label, .. }) => {
                assert_eq!((bytes, label.as_str()), (n, "absurd"));
            }
            other => panic!("{n} bytes gave {other:?}"),
        }
    }
    assert_eq!(device.allocated(), (0, 0));
    silent(device);
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    if probe().is_err() {
        return;
    }
    let missing = VulkanDevice::open(1000, &VulkanOptions::default());
    let message = missing.err().expect("no such device").to_string();
    assert!(message.contains("device 1000"), "{message}");
}

#[test]
fn a_recorder_that_is_dropped_leaves_nothing() {
    let Some(device) = open(VulkanOptions::default()) else {
        return;
    };
    let a = device.alloc(64, "a").expect("memory");
    let mut r = device.recorder("dropped").expect("a recorder");
    r.copy(&a, 0, &a, 32, 32).expect("a copy");
    drop(r);
    let empty = device.recorder("empty").expect("a recorder");
    let recording = empty.finish().expect("a recording");
    recording.run().expect("a run of nothing");
    assert!(recording.run_timed().expect("times").is_empty());
    drop((a, recording));
    silent(device);
}
