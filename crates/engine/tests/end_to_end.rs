//! From files to text, through the program.

mod common;

use common::*;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::time::Duration;

fn golden(name: &str) -> Vec<u32> {
    Numbers::read(&fixtures().join("golden/ferris-9m.safetensors"), name).u32()
}

fn ferris_arg() -> String {
    ferris().to_str().expect("UTF-8").to_string()
}

/// `run` on ferris-9m.
fn run_ferris(backend: &str, args: &[&str]) -> std::process::Output {
    let ferris = ferris_arg();
    let mut line = vec!["run", "-q", "--backend", backend, "-m", &ferris];
    line.extend(args);
    run(line)
}

fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().expect("a list");
    list.iter()
        .map(|v| v.as_u64().expect("a number") as u32)
        .collect()
}

fn greedy(backend: &str, prompt: &str) -> Value {
    let args = [
        "--ids",
        prompt,
        "-n",
        "64",
        "--greedy",
        "--ignore-eos",
        "--special",
        "--json",
    ];
    json(run_ferris(backend, &args))
}

#[test]
fn sixty_four_greedy_tokens_equal_transformers() {
    for k in ["0", "1"] {
        let prompt = comma(&golden(&format!("prompt_ids_{k}")));
        let wanted = golden(&format!("greedy_ids_{k}"));
        let got = greedy(ORACLE, &prompt);
        assert_eq!(ids(&got["tokens"]), wanted);
        assert_eq!(got["finish_reason"], "length");
        assert_eq!(got["generated_tokens"], 64);
        let list = comma(&wanted);
        let text = ok(run(["tokenize", "-m", &ferris_arg(), "--decode", &list]));
        assert_eq!(
            got["text"].as_str().unwrap(),
            text.strip_suffix('\n').unwrap()
        );
    }
}

#[test]
fn the_fast_tree_says_the_same() {
    // Of the two prompts, the one whose every choice is clear: 0.25 apart at least.
    let prompt = comma(&golden("prompt_ids_0"));
    let got = greedy("cpu_simd", &prompt);
    assert_eq!(ids(&got["tokens"]), golden("greedy_ids_0"));
    let bare = [
        "--no-fusion",
        "--ids",
        &prompt,
        "-n",
        "16",
        "--greedy",
        "--json",
    ];
    let bare = json(run_ferris("cpu_simd", &bare));
    assert_eq!(ids(&bare["tokens"]), golden("greedy_ids_0")[..16]);
}

#[test]
fn json_tells_what_happened() {
    let args = ["-p", "fn main() {", "-n", "5", "--greedy", "--json"];
    let got = json(run_ferris(ORACLE, &args));
    assert_eq!(
        ids(&got["tokens"]).len() as u64,
        got["generated_tokens"].as_u64().unwrap()
    );
    assert!(got["prompt_tokens"].as_u64().unwrap() > 2);
    assert_eq!(got["backend"], ORACLE);
    for field in ["load_s", "ttft_ms", "prefill_tok_s", "decode_tok_s"] {
        assert!(got["timings"][field].as_f64().unwrap() > 0.0, "{field}");
    }
    assert!(got["memory"]["device_peak"].as_u64().unwrap() > 1 << 20);
    let streamed = ok(run_ferris(ORACLE, &args[..5]));
    assert_eq!(
        streamed.trim_end_matches('\n'),
        got["text"].as_str().unwrap().trim_end_matches('\n')
    );
}

#[test]
fn prompts_come_from_files_and_pipes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompt.txt");
    std::fs::write(&file, "let x = 1;\n").unwrap();
    let tail = ["-n", "4", "--greedy"];
    let file_arg = file.to_str().unwrap();
    let typed = ok(run_ferris(
        ORACLE,
        &[&["-p", "let x = 1;"], &tail[..]].concat(),
    ));
    let from_file = ok(run_ferris(ORACLE, &[&["-f", file_arg], &tail[..]].concat()));
    assert_eq!(typed, from_file);
    let ferris = ferris_arg();
    let line = [
        "run",
        "-q",
        "--backend",
        ORACLE,
        "-m",
        &ferris,
        "-n",
        "4",
        "--greedy",
    ];
    assert_eq!(typed, ok(run_with_stdin(line, b"let x = 1;\n")));
}

#[test]
fn stop_strings_end_tokens_and_bans() {
    let chat = [
        "-p",
        "What does `Vec::push` do?",
        "--chat",
        "--greedy",
        "--json",
    ];
    let whole = json(run_ferris(ORACLE, &[&chat[..], &["-n", "40"]].concat()));
    let text = whole["text"].as_str().unwrap();
    let word = text.split_whitespace().nth(3).expect("some words");
    let cut = json(run_ferris(
        ORACLE,
        &[&chat[..], &["-n", "40", "--stop", word]].concat(),
    ));
    assert_eq!(cut["finish_reason"], "stop");
    assert_eq!(
        cut["text"].as_str().unwrap(),
        &text[..text.find(word).unwrap()]
    );

    let first = ids(&whole["tokens"])[0];
    let ban = format!("{first}=-inf");
    let banned = [&chat[..], &["-n", "3", "--logit-bias", &ban]].concat();
    assert_ne!(ids(&json(run_ferris(ORACLE, &banned))["tokens"])[0], first);

    // Forcing an end token ends the answer, unless that is to be ignored.
    let force = [&chat[..], &["-n", "3", "--logit-bias", "2=100"]].concat();
    let ended = json(run_ferris(ORACLE, &force));
    assert_eq!(
        (&ended["stop_token"], &ended["text"]),
        (&2.into(), &"".into())
    );
    let on = json(run_ferris(
        ORACLE,
        &[&force[..], &["--ignore-eos"]].concat(),
    ));
    assert_eq!(ids(&on["tokens"]), [2, 2, 2]);
}

#[test]
fn a_seed_repeats_and_another_differs() {
    let draw = |seed: &str| {
        let args = [
            "-p", "The", "-n", "12", "--temp", "1.5", "--seed", seed, "--json",
        ];
        ids(&json(run_ferris(ORACLE, &args))["tokens"])
    };
    assert_eq!(draw("7"), draw("7"));
    assert_ne!(draw("7"), draw("8"));
}

#[test]
fn without_a_command_the_demonstration_runs() {
    let elsewhere = tempfile::tempdir().unwrap();
    let output = engine()
        .args(["--backend", "auto"])
        .current_dir(elsewhere.path())
        .output()
        .unwrap();
    let line = stderr(&output);
    let last = line.lines().last().unwrap().to_string();
    for part in ["steps", "prompt", "tok/s", "first token", "peak memory"] {
        assert!(last.contains(part), "{part} is not in: {last}");
    }
    assert!(ok(output).len() > 20);
    let named = engine()
        .args(["--backend", ORACLE, "--quiet"])
        .env("ESPALIER_FIXTURES", fixtures())
        .output()
        .unwrap();
    assert_eq!(stderr(&named), "");
    assert!(ok(named).len() > 20);
}

#[test]
fn a_conversation_reuses_the_cache() {
    let ferris = ferris_arg();
    let chat = [
        "chat",
        "-v",
        "--backend",
        ORACLE,
        "-m",
        &ferris,
        "-n",
        "12",
        "--greedy",
    ];
    let (one, two) = ("What is a slice?", "And a `String`?");
    let talked = run_with_stdin(chat, format!("{one}\n\n{two}\n").as_bytes());
    let notes = stderr(&talked);
    let cached: Vec<usize> = notes
        .lines()
        .filter(|l| l.contains("were in the cache"))
        .map(|l| l.split(' ').next().unwrap().parse().unwrap())
        .collect();
    let said = ok(talked);

    let fresh = |prompt: &str| {
        let args = ["-p", prompt, "-n", "12", "--greedy", "--json"];
        json(run_ferris(ORACLE, &args))
    };
    let user = |text: &str| format!("<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n");
    let first = fresh(&user(one));
    let first_text = first["text"].as_str().unwrap();
    let second = fresh(&format!(
        "{}{first_text}<|im_end|>\n{}",
        user(one),
        user(two)
    ));
    let second_text = second["text"].as_str().unwrap();
    let line = |text: &str| format!("{}{}", text, if text.ends_with('\n') { "" } else { "\n" });
    assert_eq!(said, line(first_text) + &line(second_text));

    assert_eq!(cached.len(), 2, "{notes}");
    let prompt = first["prompt_tokens"].as_u64().unwrap() as usize;
    assert_eq!(cached[0], 0);
    assert!(cached[1] >= prompt, "{} of {prompt} reused", cached[1]);
}

#[test]
fn reset_forgets_and_exit_ends() {
    let ferris = ferris_arg();
    let chat = [
        "chat",
        "-q",
        "--backend",
        ORACLE,
        "-m",
        &ferris,
        "-n",
        "6",
        "--greedy",
        "--system",
        "Brief.",
    ];
    let twice = ok(run_with_stdin(chat, b"Hi\n/reset\nHi\n/exit\nHi\n"));
    let once = ok(run_with_stdin(chat, b"Hi\n"));
    assert_eq!(twice, format!("{once}{once}"));
}

/// Ctrl-C ends the answer; the conversation goes on.
#[cfg(unix)]
#[test]
fn an_interrupt_stops_the_answer_and_not_the_program() {
    // A file, whose length says at any time how much was said.
    let said = tempfile::NamedTempFile::new().unwrap();
    let mut child = engine()
        .args(["chat", "--backend", ORACLE, "--greedy", "--ignore-eos"])
        .arg("-m")
        .arg(ferris())
        .stdin(Stdio::piped())
        .stdout(said.reopen().unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut notes = BufReader::new(child.stderr.take().unwrap());
    let length = || said.as_file().metadata().unwrap().len();
    for _ in 0..2 {
        let before = length();
        writeln!(stdin, "Tell me everything.").unwrap();
        while length() == before {
            assert!(child.try_wait().unwrap().is_none(), "it goes on");
            std::thread::sleep(Duration::from_millis(2));
        }
        // Thousands of tokens are left to say.
        interrupt(child.id());
        let mut line = String::new();
        while !line.contains("(stopped)") {
            line.clear();
            assert!(notes.read_line(&mut line).unwrap() > 0, "it does not stop");
        }
    }
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[cfg(unix)]
fn interrupt(id: u32) {
    let kill = format!("kill -INT {id}");
    let status = std::process::Command::new("sh")
        .args(["-c", &kill])
        .status();
    assert!(status.unwrap().success());
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_keeps_its_text() {
    let mut child = engine()
        .args(["run", "-q", "--backend", ORACLE, "--greedy", "--ignore-eos"])
        .args(["-n", "100000", "-p", "The", "-m"])
        .arg(ferris())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0]).unwrap();
    interrupt(child.id());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with('\n'));
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

/// Whoever reads may leave early; that is no error.
#[test]
fn a_closed_pipe_ends_quietly() {
    let mut child = engine()
        .args(["run", "-q", "--backend", ORACLE, "--greedy", "--ignore-eos"])
        .args(["-n", "2000", "-p", "The", "-m"])
        .arg(ferris())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), stderr(&output).as_str()),
        (Some(0), "")
    );
}

fn logits(model: &std::path::Path, ids: &[u32], chunk: Option<&str>) -> Numbers {
    let dir = tempfile::tempdir().unwrap();
    let (list, out) = (dir.path().join("ids.txt"), dir.path().join("x.safetensors"));
    let words: Vec<String> = ids.iter().map(u32::to_string).collect();
    std::fs::write(&list, words.join(" \n")).unwrap();
    let mut command = engine();
    command
        .args(["logits", "--backend", ORACLE, "-m"])
        .arg(model);
    command.arg("--ids").arg(format!("@{}", list.display()));
    command.arg("--out").arg(&out);
    command.args(chunk.map(|c| format!("--chunk={c}")));
    assert_eq!(ok(command.output().unwrap()), "");
    let names = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 2, "nothing is left beside the output");
    Numbers::read(&out, "logits")
}

#[test]
fn logits_equal_transformers() {
    let golden = fixtures().join("golden/ferris-9m.safetensors");
    let (ids, rows) = (
        golden_u32(&golden, "ids_300"),
        golden_u32(&golden, "rows_300"),
    );
    let wanted = Numbers::read(&golden, "logits_300").f32();
    let got = logits(&ferris(), &ids, None);
    assert_eq!(got.shape, [300, 8192]);
    let got = got.f32();
    let mean = wanted.iter().map(|x| f64::from(*x)).sum::<f64>() / wanted.len() as f64;
    let square = |x: &f32| (f64::from(*x) - mean).powi(2);
    let sigma = (wanted.iter().map(square).sum::<f64>() / wanted.len() as f64).sqrt();
    for (i, row) in rows.iter().enumerate() {
        let got = &got[*row as usize * 8192..][..8192];
        for (g, w) in got.iter().zip(&wanted[i * 8192..]) {
            let off = f64::from((g - w).abs());
            assert!(off <= 5e-4 * sigma, "row {row}: {g} is not {w}");
        }
    }
}

fn golden_u32(file: &std::path::Path, name: &str) -> Vec<u32> {
    Numbers::read(file, name).u32()
}

#[test]
fn chunks_do_not_change_the_oracles_logits() {
    let small = model("qwen3-bias-mixed-bf16");
    let ids = golden_u32(&small.join("golden.safetensors"), "ids_300");
    let ids = &ids[..90];
    let whole = logits(&small, ids, None);
    for chunk in ["1", "7", "64"] {
        let cut = logits(&small, ids, Some(chunk));
        assert!(whole.f32() == cut.f32(), "chunks of {chunk}");
    }
}

#[test]
fn a_saved_base_stands_for_its_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let base = folder.path().join("base.safetensors");
    let (base, text) = (base.to_str().unwrap(), fixtures().join("eval.txt"));
    let eval = |chunk: &str, extra: &[&str]| {
        let model = ferris_arg();
        let text = text.to_str().unwrap();
        let args = [
            "eval",
            "-m",
            &model,
            "--text",
            text,
            "--backend",
            "cpu_simd",
        ];
        let sizes = ["--chunk", chunk, "--chunks", "3", "--batch", "2", "--json"];
        run(args.iter().chain(&sizes).chain(extra))
    };
    let alone = json(eval("48", &["--save-base", base]));
    assert!(alone["against"].is_null());
    let same = json(eval("48", &["--base", base]));
    assert_eq!(same["perplexity"], alone["perplexity"]);
    assert_eq!(same["reference_perplexity"], alone["perplexity"]);
    assert_eq!(same["against"]["max_kl"].as_f64(), Some(0.0), "{same}");
    assert_eq!(same["against"]["top1_raw"].as_f64(), Some(1.0), "{same}");
    let other = eval("32", &["--base", base]);
    assert!(!other.status.success());
    assert!(stderr(&other).contains("--chunk"), "{}", stderr(&other));
}
