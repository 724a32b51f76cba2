//! A whole model: one submission for each decode step, whatever its position,
//! and the same bits from a recording as from one made anew.

mod common;

use hal::Device;
use hal::vulkan::VulkanOptions;
use kernels as _;
use registry::Registry;
use runtime::{Forward, LoadOptions, Opened, Runner, Span, Want};
use sampling::Weigh;
use std::path::Path;
use std::sync::Arc;

const PROMPT: [u32; 5] = [1, 40, 30, 7, 12];
const STEPS: usize = 40;

/// Greedy ids, and the submissions of each step.
fn decode(runner: &mut Runner, submits: &dyn Fn() -> u64) -> (Vec<u32>, Vec<u64>) {
    let seq = runner.create().expect("a sequence");
    let (mut ids, mut counts) = (Vec::new(), Vec::new());
    let mut next = PROMPT.to_vec();
    for _ in 0..STEPS {
        let before = submits();
        let span = Span {
            seq,
            tokens: &next,
            outputs: 1,
            states: 1,
        };
        let Forward::Argmax(out) = runner.forward(&[span], Want::Argmax).expect("a step") else {
            panic!("ids were asked for");
        };
        next = out.to_vec();
        ids.extend(&next);
        counts.push(submits() - before);
    }
    runner.free(seq).expect("the sequence");
    (ids, counts)
}

/// The logits of a prompt's last row, or as much of them as is asked for, as bits.
fn outputs(runner: &mut Runner, want: Want) -> Vec<u32> {
    let seq = runner.create().expect("a sequence");
    let span = Span::new(seq, &PROMPT, 1);
    let out = match runner.forward(&[span], want).expect("a step") {
        Forward::Argmax(ids) => ids.to_vec(),
        Forward::TopK { rows, totals, .. } => {
            let totals = totals.iter().flat_map(|t| [*t as u32, (t >> 32) as u32]);
            rows.as_flattened().iter().copied().chain(totals).collect()
        }
        Forward::Logits { rows, .. } => rows.iter().map(|x| x.to_bits()).collect(),
    };
    runner.free(seq).expect("the sequence");
    out
}

#[test]
fn a_decode_step_is_one_submission() {
    let Some(device) = common::device(VulkanOptions::default()) else {
        return;
    };
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/qwen3-tied-bf16");
    let registry = Registry::collect().expect("a registry");
    let opened = Opened::open(&model).expect("a model");
    let mut options = LoadOptions::new(vulkan::BACKEND);
    options.context = Some(64);
    let program = opened.plan(&registry, vulkan::BACKEND, device.info(), &options);
    let program = Arc::new(program.expect("a plan"));
    let tensors = &opened.files.tensors;
    let runner = Runner::load(device.clone(), program, tensors, &mut |_, _| {});
    let mut runner = runner.expect("a runner");
    let submits = || device.submits();

    let (ids, counts) = decode(&mut runner, &submits);
    // The first two steps also record: one for the prompt, one for one row.
    assert_eq!(counts[2..], vec![1; STEPS - 2], "submissions of each step");
    let (again, counts) = decode(&mut runner, &submits);
    assert_eq!(again, ids);
    assert_eq!(counts, vec![1; STEPS], "all recorded by now");
    runner.set_eager(true);
    let (eager, _) = decode(&mut runner, &submits);
    assert_eq!(eager, ids, "recorded anew for each step");

    // The largest logits, without the rest of the row and without the greedy token.
    let logits = outputs(&mut runner, Want::Logits);
    let row: Vec<f32> = logits.iter().map(|x| f32::from_bits(*x)).collect();
    let mut order: Vec<u32> = (0..row.len() as u32).collect();
    order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]));
    order.truncate(runner.largest());
    let pairs = order.iter().flat_map(|id| [*id, logits[*id as usize]]);
    let pairs: Vec<u32> = pairs.collect();
    assert_eq!(outputs(&mut runner, Want::TopK), pairs);
    let with_total = outputs(&mut runner, Want::TopKAndTotal);
    let total = Weigh::new(row[order[0] as usize], 1.0).total(&row);
    let total = [total as u32, (total >> 32) as u32];
    assert_eq!(with_total, [&pairs[..], &total].concat());
    let late = runner.logits_row(0).expect("the row");
    assert_eq!(late, row);
    let rows = PROMPT.len();
    let commands = |want| runner.stats(rows, want).expect("recorded").commands;
    assert_eq!(commands(Want::TopK), commands(Want::Logits) + 1);
    assert_eq!(commands(Want::TopK), commands(Want::Argmax));

    let profile = runner.profile(1, Want::Argmax).expect("times");
    let profile = profile.expect("a recorded step");
    let steps = runner.program().plan_for(1).expect("a plan").steps.len();
    assert_eq!(profile.steps.len(), steps);
    assert!(profile.steps.iter().flatten().sum::<f64>() > 0.0);
    let stats = runner.stats(1, Want::Argmax).expect("a recording");
    assert!(stats.barriers < stats.commands, "{stats:?}");
    assert_eq!(device.validation_messages(), Vec::<String>::new());
}
