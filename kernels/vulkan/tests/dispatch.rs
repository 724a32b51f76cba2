//! Dispatches: barriers, errors, replays. The shader is the tree's `add`.

mod common;

use hal::vulkan::VulkanRecorder;
use hal::vulkan::{PipelineDesc, StorageBind, VulkanDevice, VulkanOptions, VulkanPipeline};
use hal::{Access, Buffer, Device, Recording};
use std::sync::Arc;

const LEN: usize = 1000;

/// Buffers for `y = a + b` over one row of [`LEN`], and how to record it.
struct Adder {
    device: Arc<VulkanDevice>,
    pipeline: Arc<VulkanPipeline>,
    step: Buffer,
}

impl Adder {
    fn new(device: &Arc<VulkanDevice>) -> Self {
        let pipeline = device
            .pipeline(&PipelineDesc {
                name: "add",
                spirv: include_bytes!("../prebuilt/add.plain.spv"),
                buffers: 4,
                push_words: 8,
                spec: &[128, 128, 0],
            })
            .expect("a pipeline");
        let step = device.alloc(64, "step").expect("memory");
        Adder {
            device: device.clone(),
            pipeline,
            step,
        }
    }

    fn buffer(&self, value: f32) -> Buffer {
        let b = self
            .device
            .alloc(LEN as u64 * 4, "operand")
            .expect("memory");
        let bytes: Vec<u8> = (0..LEN)
            .flat_map(|i| (value + i as f32).to_le_bytes())
            .collect();
        self.device.upload(&b, 0, &bytes).expect("an upload");
        b
    }

    fn read(&self, b: &Buffer) -> Vec<f32> {
        let mut bytes = vec![0; LEN * 4];
        self.device.download(b, 0, &mut bytes).expect("a download");
        let (words, _) = bytes.as_chunks::<4>();
        words.iter().map(|w| f32::from_le_bytes(*w)).collect()
    }

    fn dispatch(
        &self,
        r: &mut VulkanRecorder,
        [a, b, y]: [&Buffer; 3],
        accesses: &[Access],
    ) -> hal::Result<()> {
        let binds = [a, b, y, &self.step].map(|buffer| StorageBind {
            buffer,
            offset: 0,
            bytes: buffer.len(),
        });
        // One row, whatever the step says.
        let push = [u32::MAX, LEN as u32, 0, 0, 0, 0, 0, 0];
        let groups = [(LEN as u32).div_ceil(128), 1, 1];
        r.dispatch("add", &self.pipeline, &binds, &push, groups, accesses)
    }

    fn honest(&self, [a, b, y]: [&Buffer; 3]) -> Vec<Access> {
        let all = |b: &Buffer| 0..b.len();
        vec![
            Access::read(a, all(a)),
            Access::read(b, all(b)),
            Access::write(y, all(y)),
        ]
    }

    fn record(&self, work: impl FnOnce(&mut VulkanRecorder)) -> Box<dyn Recording> {
        let mut recorder = self.device.recorder("adds").expect("a recorder");
        let vulkan = recorder.as_any_mut().downcast_mut::<VulkanRecorder>();
        work(vulkan.expect("a Vulkan recorder"));
        recorder.finish().expect("a recording")
    }
}

#[test]
fn dispatches_wait_where_accesses_conflict_and_only_there() {
    let Some(device) = common::device(VulkanOptions::default()) else {
        return;
    };
    let add = Adder::new(&device);
    let (a, b) = (add.buffer(1.0), add.buffer(0.5));
    let [c, d, e] = [0.0; 3].map(|v| add.buffer(v));
    let recording = add.record(|r| {
        for ops in [[&a, &b, &c], [&a, &a, &d], [&c, &d, &e]] {
            add.dispatch(r, ops, &add.honest(ops)).expect("a dispatch");
        }
    });
    let stats = recording.stats();
    assert_eq!((stats.commands, stats.barriers), (3, 1));
    let before = device.submits();
    let mut first = None;
    for _ in 0..50 {
        recording.run().expect("a run");
        let got = add.read(&e);
        for (i, v) in got.iter().enumerate() {
            assert_eq!(*v, 3.5 + 4.0 * i as f32);
        }
        assert_eq!(first.get_or_insert(got.clone()), &got);
    }
    assert_eq!(device.submits() - before, 50, "one submit for each run");
    recording.run_timed().expect("times");
    assert_eq!(device.validation_messages(), Vec::<String>::new());
}

/// A kernel that does not declare what it reads is caught.
#[test]
fn a_missing_barrier_is_caught_by_validation() {
    let Some(device) = common::device(VulkanOptions::default()) else {
        return;
    };
    let add = Adder::new(&device);
    let (a, c, d) = (add.buffer(1.0), add.buffer(0.0), add.buffer(0.0));
    let recording = add.record(|r| {
        let first = [&a, &a, &c];
        add.dispatch(r, first, &add.honest(first))
            .expect("a dispatch");
        let second = [&c, &a, &d];
        let forgotten = [Access::write(&d, 0..d.len())];
        add.dispatch(r, second, &forgotten).expect("a dispatch");
    });
    assert_eq!(recording.stats().barriers, 0);
    let said = device.validation_messages();
    assert!(
        said.iter()
            .any(|m| m.contains("SYNC-HAZARD-READ-AFTER-WRITE")),
        "{said:?}"
    );
}

#[test]
fn wrong_dispatches_are_errors() {
    let Some(device) = common::device(VulkanOptions::default()) else {
        return;
    };
    let add = Adder::new(&device);
    let a = add.buffer(1.0);
    let limits = *device.limits();
    let recording = add.record(|r| {
        let mut try_with = |bind: StorageBind, push: &[u32], groups: [u32; 3]| {
            let binds = [bind; 4];
            let done = r.dispatch("wrong", &add.pipeline, &binds, push, groups, &[]);
            done.map_err(|e| e.to_string())
        };
        let whole = StorageBind {
            buffer: &a,
            offset: 0,
            bytes: a.len(),
        };
        let push = [0; 8];
        let offset = limits.storage_alignment / 2;
        let cases = [
            (
                StorageBind {
                    offset,
                    bytes: 4,
                    ..whole
                },
                &push[..],
                [1, 1, 1],
                "not a multiple",
            ),
            (
                StorageBind {
                    bytes: a.len() + 1,
                    ..whole
                },
                &push,
                [1, 1, 1],
                "outside a buffer",
            ),
            (whole, &push[..7], [1, 1, 1], "7 constants"),
            (whole, &push, [1, limits.workgroups[1] + 1, 1], "workgroups"),
        ];
        for (bind, push, groups, want) in cases {
            let said = try_with(bind, push, groups).expect_err(want);
            assert!(said.contains(want), "{said}");
        }
        try_with(whole, &push, [0, 1, 1]).expect("nothing to do");
    });
    assert_eq!(recording.stats().commands, 0);
    let broken = device.pipeline(&PipelineDesc {
        name: "broken",
        spirv: b"not a shader",
        buffers: 1,
        push_words: 0,
        spec: &[],
    });
    let said = broken.err().expect("no pipeline").to_string();
    assert!(said.contains("broken") && said.contains("SPIR-V"), "{said}");
    assert_eq!(device.validation_messages(), Vec::<String>::new());
}
