//! Peers that run in turn, played by scripts.

use super::*;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

/// A program of that name in a folder, which prints what a shell script does.
fn program(dir: &Path, name: &str, body: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("a script");
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("executable");
    path
}

fn refused(args: &MeasureArgs) -> String {
    let registry = Registry::collect().expect("kernels");
    let error = run::measure(&registry, args).map(|_| ()).unwrap_err();
    format!("{error:#}")
}

#[test]
fn a_peer_runs_in_turn_and_both_are_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = dir.path().join("log");
    let text = format!(
        "echo \"$@\" >> {}\n\
         echo '{{\"n_prompt\": 20, \"n_gen\": 0, \"samples_ts\": [10.0, 12.0, 11.0], \"build_commit\": \"abc\"}}'\n\
         echo '{{\"n_prompt\": 0, \"n_gen\": 2, \"samples_ts\": [5.0]}}'",
        log.display()
    );
    let script = program(dir.path(), "llama-bench", &text);
    let peer = format!("{} -m other.gguf", script.display());
    let a = measure(&["--synthetic", "tiny:bf16", "--no-gate", "--peer", &peer]);
    assert_valid(&a);
    let b = &a.baselines[0];
    assert_eq!(b.command, "llama-bench -m other.gguf");
    assert_eq!(b.measurements[metric::PREFILL].samples, [11.0, 11.0]);
    assert_eq!(b.details["build_commit"], "abc");
    let c = a.comparison.iter().find(|c| c.metric == metric::DECODE);
    let c = c.expect("a comparison");
    assert!(c.theirs == 5.0 && c.ratio == c.ours / 5.0, "{c:?}");
    let own = &a.measurements[metric::DECODE];
    let turns = c.turns.expect("as many samples of each");
    assert_eq!(
        (turns.lowest, turns.highest),
        (own.min / 5.0, own.max / 5.0)
    );
    let calls = std::fs::read_to_string(&log).expect("the peer ran");
    assert_eq!(calls.lines().count(), 2);
    assert!(calls.contains("-p 20 -n 2 -d 0"), "{calls}");
    // What it says of itself must be what we measure.
    let says = |details: &str| {
        let text = format!(
            "#!/bin/sh\n\
             echo '{{\"n_prompt\": 20, \"n_gen\": 0, \"avg_ts\": 10.0, {details}}}'\n\
             echo '{{\"n_prompt\": 0, \"n_gen\": 2, \"avg_ts\": 5.0}}'\n"
        );
        std::fs::write(&script, text).expect("a script");
        let args = args(&["--synthetic", "tiny:bf16", "--no-gate", "--peer", &peer]);
        run::measure(&Registry::collect().expect("kernels"), &args).map_err(|e| e.to_string())
    };
    let like = format!(
        "\"model_n_params\": {}, \"n_threads\": {}, \"type_k\": \"f16\", \"type_v\": \"f16\"",
        a.workload.parameters,
        a.hardware.as_ref().expect("a device").threads
    );
    assert!(says(&like).is_ok_and(|a| a.baselines[0].details["type_k"] == "f16"));
    for (other, named) in [
        ("\"model_n_params\": 77", "parameters"),
        ("\"model_size\": 77", "bytes"),
        ("\"n_threads\": 77", "threads"),
        ("\"type_v\": \"bf16\"", "-ctv"),
    ] {
        let refused = says(other).err().unwrap_or_default();
        assert!(refused.contains(named), "{other}: {refused}");
    }
    // A peer on an unnamed file of a model that is none would measure something else.
    let registry = Registry::collect().expect("kernels");
    let unnamed = args(&["--synthetic", "tiny:bf16", "--peer", "llama-bench"]);
    assert!(run::measure(&registry, &unnamed).is_err());
}

/// Whole processes, ours and the peer's; the first turn brings the file into memory.
#[test]
fn whole_processes_are_timed_in_turn() {
    let dir = tempfile::tempdir().expect("a folder");
    let log = dir.path().join("log");
    // Its command's own -p is one more test, as llama-bench has it.
    let text = format!(
        "echo \"$@\" >> {}\n\
         case \"$*\" in *'-p 512'*) echo '{{\"n_prompt\": 512, \"n_gen\": 0, \"avg_ts\": 9.0}}';; esac\n\
         case \"$*\" in *'-n 0 '*) \
         echo '{{\"n_prompt\": 64, \"n_gen\": 0, \"n_depth\": 0, \"avg_ts\": 9.0, \"n_threads\": 2}}'; exit;; esac\n\
         echo '{{\"n_prompt\": 20, \"n_gen\": 0, \"avg_ts\": 10.0}}'\n\
         echo '{{\"n_prompt\": 0, \"n_gen\": 2, \"avg_ts\": 5.0}}'",
        log.display()
    );
    let script = program(dir.path(), "llama-bench", &text);
    let peer = format!("{} -m other.gguf", script.display());
    let ferris = ferris();
    let ours = env!("CARGO_BIN_EXE_bench-run");
    let model = ["--model", &ferris, "--program", ours];
    let with = |more: &[&'static str], peer| {
        let peer = ["--peer", peer];
        [&model[..], &peer, more].concat()
    };
    // The program is not this one, which a gate would speak of.
    let mut timed = measure(&with(&["--processes", "2"], &peer));
    assert_valid(&timed);
    assert_eq!(
        (timed.status, &timed.correctness),
        (Status::Diagnostic, &None)
    );
    assert!(timed.notes.iter().any(|n| n.contains("--program")));
    let theirs = &timed.baselines[0].measurements[metric::PROCESS];
    let own = &timed.measurements[metric::PROCESS];
    for stat in [own, theirs] {
        assert_eq!((stat.samples.len(), &*stat.unit), (2, "s"));
        assert!(!stat.higher_is_better && stat.min > 0.0);
    }
    assert_eq!(timed.table().matches(", less is better").count(), 1);
    let calls = std::fs::read_to_string(&log).expect("the peer ran");
    let alone = calls
        .lines()
        .filter(|l| l.ends_with("-o jsonl -p 64 -n 0 -r 1 --no-warmup"));
    assert_eq!(alone.count(), 3, "{calls}");

    // Beside a peer they are a claim: as many and as steady as rates.
    timed.correctness = Some(Correctness {
        passed: true,
        ..Correctness::default()
    });
    let samples = |seconds: &[f64]| Stat::of(Unit::Seconds, seconds.to_vec()).expect("samples");
    let (quiet, few) = (samples(&[1.0; 5]), samples(&[1.0; 2]));
    let noisy = samples(&[1.0, 1.4, 0.8, 1.0, 1.1]);
    for peers in &mut timed.baselines {
        for stat in peers.measurements.values_mut() {
            *stat = Stat::of(Unit::TokensPerSecond, vec![1.0; 5]).expect("samples");
        }
    }
    let mut judged = |own: &Stat, theirs: &Stat| {
        let name = metric::PROCESS.to_string();
        timed.measurements.insert(name.clone(), own.clone());
        timed.baselines[0].measurements.insert(name, theirs.clone());
        steady_but(&mut timed, &[metric::PROCESS]);
        (timed.status, timed.decision.reason.clone())
    };
    assert_eq!(judged(&quiet, &quiet).0, Status::Accepted);
    for (own, theirs, why) in [
        (&few, &quiet, "--processes 5"),
        (&quiet, &few, "the peer's process_s"),
        (&noisy, &quiet, "process_s by"),
        (&quiet, &noisy, "the peer's process_s by"),
    ] {
        let (status, reason) = judged(own, theirs);
        assert_eq!(status, Status::RejectedVariance);
        assert!(reason.contains(why), "{reason}");
    }
    // Alone they stand beside the rates.
    timed.baselines.clear();
    timed.measurements.insert(metric::PROCESS.into(), noisy);
    timed.settle();
    assert_eq!(timed.status, Status::Accepted);

    // One that times more than the prompt, runs otherwise than ours, or fails.
    let more = format!("{peer} -p 512");
    let why = refused(&args(&with(&["--processes", "1"], &more)));
    assert!(
        why.contains("2 tests") && why.contains("remove -p"),
        "{why}"
    );
    let threads = with(&["--processes", "1", "--threads", "1"], &peer);
    assert!(refused(&args(&threads)).contains("threads"));
    let fails = ["--model", &ferris, "--processes", "1", "--program", "false"];
    assert!(refused(&args(&fails)).contains("false ended with"));
}

/// What no gate is needed to refuse is refused before there is a model.
#[test]
fn what_cannot_be_timed_is_refused_at_once() {
    let none = ["--synthetic", "no-such-shape:bf16"];
    let with = |more: &[&str]| refused(&args(&[&none[..], more].concat()));
    assert!(with(&["--processes", "1"]).contains("--model"));
    let batched = ["--peer", "llama-batched-bench -m x.gguf"];
    assert!(with(&batched).contains("--depth"));
    let whole = [
        "--model",
        "no-such-file",
        "--depth",
        "8",
        "--processes",
        "1",
    ];
    let why = refused(&args(&[&whole[..], &batched].concat()));
    assert!(why.contains("llama-batched-bench cannot"), "{why}");
    // Its rows name no cache: its command does.
    let ferris = ferris();
    let peer = format!("llama-batched-bench -m {ferris} -ctv q8_0");
    let kv = [
        "--model", &ferris, "--depth", "8", "--kv", "f16", "--peer", &peer,
    ];
    assert!(refused(&args(&kv)).contains("-ctv"));
}
