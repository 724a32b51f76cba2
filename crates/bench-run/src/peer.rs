//! Running llama-bench or llama-batched-bench between our own runs.

use crate::artifact::{Artifact, Baseline, Measurements, metric};
use crate::measure::Shape;
use crate::process::whole;
use crate::provenance::{fingerprint, short};
use crate::stat::{Stat, median};
use anyhow::{Context as _, Result, bail, ensure};
use runtime::Opened;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

/// llama-bench repeats each test so often where its command does not say; the median
/// counts as one sample.
const REPEATS: &str = "3";

/// How far two counts of one model's parameters or bytes may be apart: what is counted
/// (padding, tables of rotations) differs a little.
const SIZE_SLACK: f64 = 0.1;

/// The programs whose flags and output are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    /// One sequence: a prompt, an answer.
    Bench,
    /// Answers to several prompts at a time.
    Batched,
}

impl Tool {
    fn of(program: &str) -> Self {
        let name = Path::new(program).file_name();
        match name.is_some_and(|n| n.to_string_lossy().contains("batched-bench")) {
            true => Tool::Batched,
            false => Tool::Bench,
        }
    }

    /// What it must have measured.
    fn metrics(self, shape: &Shape) -> &'static [&'static str] {
        match (self, shape.batch) {
            (Tool::Bench, _) => &[metric::PREFILL, metric::DECODE],
            (Tool::Batched, 1) => &[metric::DECODE],
            (Tool::Batched, _) => &[metric::DECODE, metric::BATCH_DECODE],
        }
    }

    fn flags(self, shape: &Shape, given: &[String]) -> Vec<String> {
        let Shape {
            prompt,
            generated,
            depth,
            batch,
        } = *shape;
        // A prompt as long as the batch is the nearest thing that llama-bench has to
        // a batch.
        let with_batch = |one: usize| match batch {
            1 => one.to_string(),
            n => format!("{one},{n}"),
        };
        let mut flags: Vec<(&str, String)> = Vec::new();
        match self {
            Tool::Bench => {
                if !given.iter().any(|a| a == "-r" || a == "--repetitions") {
                    flags.push(("-r", REPEATS.into()));
                }
                flags.push(("-o", "jsonl".into()));
                flags.push(("-p", with_batch(prompt)));
                flags.push(("-n", generated.to_string()));
                flags.push(("-d", depth.to_string()));
            }
            Tool::Batched => {
                flags.push(("--output-format", "jsonl".into()));
                flags.push(("-npp", depth.to_string()));
                flags.push(("-ntg", generated.to_string()));
                flags.push(("-npl", with_batch(1)));
                flags.push(("-c", ((depth + generated) * batch).to_string()));
            }
        }
        let flags = flags.into_iter();
        flags.flat_map(|(name, v)| [name.into(), v]).collect()
    }
}

/// A peer and what it did so far.
pub struct Peer {
    command: String,
    tool: Tool,
    arguments: Vec<String>,
    samples: BTreeMap<&'static str, Vec<f64>>,
    details: BTreeMap<String, String>,
}

/// What of its rows says what ran.
const DETAILS: &[&str] = &[
    "build_commit",
    "build_number",
    "backends",
    "cpu_info",
    "gpu_info",
    "model_type",
    "model_size",
    "model_n_params",
    "n_threads",
    "type_k",
    "type_v",
    "flash_attn",
];

impl Peer {
    /// A peer that runs `command`, on our file unless it names another.
    pub fn new(command: &str, model: Option<&Path>) -> Result<Self> {
        let mut arguments: Vec<String> = command.split_whitespace().map(String::from).collect();
        if arguments.is_empty() {
            bail!("the peer's command is empty: give one such as 'llama-bench -t 2'");
        }
        let tool = Tool::of(&arguments[0]);
        let named = |a: &String| a == "-m" || a == "--model" || a.starts_with("--model=");
        if !arguments.iter().any(named) {
            match model {
                Some(path) if path.is_file() => {
                    arguments.push("-m".into());
                    arguments.push(path.to_string_lossy().into_owned());
                }
                _ => bail!(
                    "the peer needs a GGUF file of this model: name it with -m in its command"
                ),
            }
        }
        let mut details = BTreeMap::new();
        if tool == Tool::Batched {
            // Its rows do not say what its cache is in: its command does, or it is f16.
            for (name, short, long) in [
                ("type_k", "-ctk", "--cache-type-k"),
                ("type_v", "-ctv", "--cache-type-v"),
            ] {
                let given = value_of(&arguments, short, long).unwrap_or("f16");
                details.insert(name.into(), given.into());
            }
        }
        Ok(Peer {
            command: command.into(),
            tool,
            arguments,
            samples: BTreeMap::new(),
            details,
        })
    }

    /// Refuses what it cannot be asked for, before anything runs.
    pub fn must_suit(&self, shape: &Shape, processes: bool) -> Result<()> {
        let program = self.arguments.first().map_or("", String::as_str);
        if self.tool == Tool::Batched && shape.depth == 0 {
            bail!(
                "{program} decodes behind prompts: say with --depth how long each of them is, such as 256"
            );
        }
        if self.tool == Tool::Batched && processes {
            bail!("{program} cannot read a prompt alone: give --processes with llama-bench");
        }
        Ok(())
    }

    /// Refuses a peer whose rows do not say what model it runs, unless its file has our
    /// very weights, `ours` by their fingerprint.
    pub fn must_have_file(&self, model: Option<&Path>, ours: Option<&str>) -> Result<()> {
        if self.tool != Tool::Batched {
            return Ok(());
        }
        let file = value_of(&self.arguments, "-m", "--model").unwrap_or_default();
        let whole = |path: &Path| path.canonicalize().ok();
        let theirs = whole(Path::new(file));
        if theirs.is_some() && theirs == model.and_then(whole) {
            return Ok(());
        }
        let opened = Opened::open(Path::new(file))
            .with_context(|| format!("the peer's file {file} cannot be compared with ours"))?;
        ensure!(
            ours == Some(&fingerprint(&opened.files.tensors)),
            "the peer's file {file} has other weights than ours, and its rows would not tell: \
             give both one file"
        );
        Ok(())
    }

    /// Runs it once for `shape` and keeps the figures if they count.
    pub fn turn(&mut self, shape: &Shape, counted: bool) -> Result<()> {
        let (program, arguments) = self.arguments.split_first().context("an empty command")?;
        let output = Command::new(program)
            .args(arguments)
            .args(self.tool.flags(shape, arguments))
            .output()
            .with_context(|| format!("cannot start {program}"))?;
        must_succeed(program, &output)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let found = rates(&text, shape, self.tool)?;
        if counted {
            for (name, rate) in found {
                self.samples.entry(name).or_default().push(rate);
            }
        }
        self.learn(&rows(&text)?);
        Ok(())
    }

    /// Keeps what a row says of what ran.
    fn learn(&mut self, rows: &[Value]) {
        let said = rows.first().into_iter();
        for (row, name) in said.flat_map(|row| DETAILS.iter().map(move |name| (row, name))) {
            if let Some(value) = row.get(name) {
                let value = value.as_str().map_or(value.to_string(), String::from);
                self.details.insert(name.to_string(), value);
            }
        }
    }

    /// Times a whole process that loads the model and reads a prompt.
    pub fn first_token(&mut self, prompt: u32, counted: bool) -> Result<()> {
        let (program, arguments) = self.arguments.split_first().context("an empty command")?;
        let mut command = Command::new(program);
        command.args(arguments).args(["-o", "jsonl"]);
        command.args(["-p", &prompt.to_string()]);
        command.args(["-n", "0", "-r", "1", "--no-warmup"]);
        let (seconds, text) = whole(&mut command)?;
        let rows = rows(&text)?;
        // llama-bench runs what its command says beside what is added to it.
        let asked = |row: &Value| {
            let count = |name: &str| row[name].as_u64();
            (count("n_prompt"), count("n_gen")) == (Some(prompt.into()), Some(0))
                && count("n_depth").unwrap_or(0) == 0
        };
        if rows.len() != 1 || !rows.iter().all(asked) {
            bail!(
                "the peer timed {} tests where --processes asks for one, a prompt of {prompt} tokens: {}",
                rows.len(),
                remedy(arguments)
            );
        }
        self.learn(&rows);
        if counted {
            let samples = self.samples.entry(metric::PROCESS).or_default();
            samples.push(seconds);
        }
        Ok(())
    }

    /// Refuses a peer that measures something other than we do: another model,
    /// scheme, KV cache or number of threads, as far as it says.
    pub fn must_match(&self, ours: &Artifact) -> Result<()> {
        let said = |name: &str| self.details.get(name).map(String::as_str);
        let number = |name: &str| said(name)?.parse::<f64>().ok().filter(|n| *n > 0.0);
        let near = |a: f64, b: f64| (a / b - 1.0).abs() <= SIZE_SLACK;
        let w = &ours.workload;
        let parameters = w.parameters as f64;
        if let Some(theirs) = number("model_n_params").filter(|n| !near(*n, parameters)) {
            bail!(
                "the peer's model has {theirs} parameters, ours {parameters}: give both one file"
            );
        }
        let bytes = parameters * w.bits_per_weight / 8.0;
        if let Some(theirs) = number("model_size").filter(|n| !near(*n, bytes)) {
            bail!(
                "the peer's weights are {theirs:.0} bytes, ours {bytes:.0}: give both one storage scheme"
            );
        }
        let threads = ours.hardware.as_ref().filter(|h| h.kind == "cpu");
        if let (Some(h), Some(theirs)) = (threads, number("n_threads"))
            && theirs != h.threads as f64
        {
            bail!(
                "the peer runs on {theirs} threads, ours on {}: add -t {} to its command",
                h.threads,
                h.threads
            );
        }
        let kv = w.kv.as_deref().unwrap_or_default();
        for (name, flag) in [("type_k", "-ctk"), ("type_v", "-ctv")] {
            let theirs = said(name).map(|t| if t == "q8_0" { "int8_kv" } else { t });
            if let Some(theirs) = theirs.filter(|t| *t != kv) {
                bail!(
                    "the peer's KV cache is in {theirs} ({name}), ours in {kv}: \
                     add {flag} to its command, or --kv to ours"
                );
            }
        }
        Ok(())
    }

    pub fn baseline(self) -> Baseline {
        let samples = self.samples.into_iter();
        let measurements: Measurements = samples
            .filter_map(|(name, s)| Some((name.into(), Stat::of(metric::unit(name), s)?)))
            .collect();
        Baseline {
            command: short(&self.command),
            measurements,
            details: self.details,
        }
    }
}

/// What a program ended with, where it did not end well.
pub fn must_succeed(program: &str, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    let why = why.lines().rfind(|l| !l.trim().is_empty());
    let why = why.unwrap_or("nothing on its standard error");
    bail!("{program} ended with {}: {why}", output.status);
}

/// The value of a flag in a command; the last counts where it is given twice.
fn value_of<'a>(arguments: &'a [String], short: &str, long: &str) -> Option<&'a str> {
    let at = |i: usize| arguments.get(i).map(String::as_str);
    (0..arguments.len()).rev().find_map(|i| match at(i)? {
        a if a == short || a == long => at(i + 1),
        a => a.strip_prefix(long)?.strip_prefix('='),
    })
}

/// Flags of llama-bench whose every value is one more test.
const TESTS: &[&str] = &[
    "-p",
    "--n-prompt",
    "-n",
    "--n-gen",
    "-pg",
    "-d",
    "--n-depth",
];

/// How to leave one test of a command of llama-bench: it runs every combination of what
/// its flags say, in lists or again and again.
fn remedy(arguments: &[String]) -> String {
    let listed = |i: usize| arguments.get(i + 1).is_some_and(|v| v.contains(','));
    let more = arguments.iter().enumerate().filter(|(i, a)| {
        let test = TESTS.contains(&a.as_str());
        a.starts_with('-') && (test || listed(*i) || arguments[..*i].contains(a))
    });
    let flags: Vec<String> = more
        .map(|(i, a)| match TESTS.contains(&a.as_str()) {
            true => format!("remove {a}"),
            false if listed(i) => format!("give {a} one value"),
            false => format!("give {a} once"),
        })
        .collect();
    match flags.is_empty() {
        true => "give its flags one value each, and does it know jsonl?".into(),
        false => flags.join(", "),
    }
}

fn rows(text: &str) -> Result<Vec<Value>> {
    let lines = text.lines().filter(|l| l.starts_with('{'));
    lines
        .map(|l| serde_json::from_str(l).context("the peer's output is not JSON lines"))
        .collect()
}

/// Tokens per second by metric.
fn rates(text: &str, shape: &Shape, tool: Tool) -> Result<Vec<(&'static str, f64)>> {
    let mut found = BTreeMap::new();
    for row in rows(text)? {
        let shared = &row["is_pp_shared"];
        if shared
            .as_bool()
            .unwrap_or(shared.as_u64().unwrap_or(0) != 0)
        {
            bail!("the peer's sequences share one prompt, ours have one each: remove -pps");
        }
        let count = |name: &str| row[name].as_u64().unwrap_or(0) as usize;
        let (name, rate) = match tool {
            Tool::Bench => (bench_metric(&count, shape), bench_rate(&row)),
            Tool::Batched => (batched_metric(&count, shape), row["speed_tg"].as_f64()),
        };
        if let (Some(name), Some(rate)) = (name, rate.filter(|r| *r > 0.0)) {
            let twice = found.insert(name, rate).is_some();
            ensure!(
                !twice,
                "the peer printed {name} more than once: the workload is added to its command, \
                 which must say none, and no flag with several values"
            );
        }
    }
    for name in tool.metrics(shape) {
        if !found.contains_key(name) {
            bail!(
                "the peer printed no {name}: is it llama-bench or llama-batched-bench, and does it know jsonl?"
            );
        }
    }
    Ok(found.into_iter().collect())
}

fn bench_rate(row: &Value) -> Option<f64> {
    let samples = row["samples_ts"].as_array().into_iter().flatten();
    let samples: Vec<f64> = samples.filter_map(Value::as_f64).collect();
    match samples.is_empty() {
        true => row["avg_ts"].as_f64(),
        false => Some(median(samples)),
    }
}

fn bench_metric(count: &dyn Fn(&str) -> usize, shape: &Shape) -> Option<&'static str> {
    match (count("n_prompt"), count("n_gen")) {
        (0, n) if n == shape.generated => Some(metric::DECODE),
        (p, 0) if p == shape.prompt => Some(metric::PREFILL),
        (p, 0) if p == shape.batch && p > 1 => Some(metric::BATCH_DECODE),
        _ => None,
    }
}

fn batched_metric(count: &dyn Fn(&str) -> usize, shape: &Shape) -> Option<&'static str> {
    if (count("pp"), count("tg")) != (shape.depth, shape.generated) {
        return None;
    }
    match count("pl") {
        1 => Some(metric::DECODE),
        n if n == shape.batch => Some(metric::BATCH_DECODE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_found_by_what_was_asked() {
        let text = "\
ggml: some line
{\"n_prompt\": 512, \"n_gen\": 0, \"avg_ts\": 9.0, \"samples_ts\": [100.0, 300.0, 200.0]}
{\"n_prompt\": 8, \"n_gen\": 0, \"avg_ts\": 70.0}
{\"n_prompt\": 0, \"n_gen\": 64, \"avg_ts\": 33.5, \"samples_ts\": []}
";
        let shape = Shape {
            prompt: 512,
            generated: 64,
            depth: 0,
            batch: 8,
        };
        let found = rates(text, &shape, Tool::Bench).unwrap();
        assert_eq!(
            found,
            [
                (metric::BATCH_DECODE, 70.0),
                (metric::DECODE, 33.5),
                (metric::PREFILL, 200.0)
            ]
        );
        let none = Shape {
            generated: 65,
            ..shape
        };
        assert!(rates(text, &none, Tool::Bench).is_err());
        assert!(rates("{not json}\n", &shape, Tool::Bench).is_err());
    }

    #[test]
    fn batches_are_measured_behind_prompts_of_their_own() {
        let shape = Shape {
            prompt: 512,
            generated: 64,
            depth: 256,
            batch: 8,
        };
        let tool = Tool::of("/some/where/llama-batched-bench");
        assert_eq!(tool, Tool::Batched);
        let flags = tool.flags(&shape, &[]).join(" ");
        assert_eq!(
            flags,
            "--output-format jsonl -npp 256 -ntg 64 -npl 1,8 -c 2560"
        );
        let text = "\
{\"pp\": 256, \"tg\": 64, \"pl\": 1, \"speed_pp\": 9.0, \"speed_tg\": 50.0, \"speed\": 70.0}
{\"pp\": 256, \"tg\": 64, \"pl\": 8, \"speed_pp\": 9.0, \"speed_tg\": 300.0, \"speed\": 400.0}
";
        let found = rates(text, &shape, tool).unwrap();
        assert_eq!(
            found,
            [(metric::BATCH_DECODE, 300.0), (metric::DECODE, 50.0)]
        );
        let other = Shape {
            depth: 128,
            ..shape
        };
        assert!(rates(text, &other, tool).is_err());
        let twice = format!("{text}{text}");
        let error = rates(&twice, &shape, tool).unwrap_err().to_string();
        assert!(error.contains("more than once"), "{error}");
        for shared in ["1", "true"] {
            let text = text.replace("{\"pp\"", &format!("{{\"is_pp_shared\": {shared}, \"pp\""));
            let error = rates(&text, &shape, tool).unwrap_err().to_string();
            assert!(error.contains("-pps"), "{error}");
        }
        let text = text.replace("{\"pp\"", "{\"is_pp_shared\": 0, \"pp\"");
        assert!(rates(&text, &shape, tool).is_ok());
        let peer = Peer::new("llama-batched-bench -m x.gguf", None).unwrap();
        let flat = Shape { depth: 0, ..shape };
        let why = |shape, processes| match peer.must_suit(shape, processes) {
            Ok(()) => String::new(),
            Err(e) => e.to_string(),
        };
        assert!(why(&flat, false).contains("--depth"));
        assert!(why(&shape, true).contains("--processes"));
        assert_eq!(why(&shape, false), "");
    }

    #[test]
    fn what_batches_do_not_say_is_in_the_command() {
        let of = |flags: &str| Peer::new(&format!("llama-batched-bench {flags}"), None).unwrap();
        let plain = of("-m x.gguf");
        assert_eq!(
            (&*plain.details["type_k"], &*plain.details["type_v"]),
            ("f16", "f16")
        );
        let other = of("-m x.gguf -ctk f16 -ctk q8_0 --cache-type-v=bf16");
        assert_eq!(
            (&*other.details["type_k"], &*other.details["type_v"]),
            ("q8_0", "bf16")
        );
        let named = of("-m x.gguf --model=y.gguf");
        assert_eq!(value_of(&named.arguments, "-m", "--model"), Some("y.gguf"));
    }

    #[test]
    fn a_command_is_told_what_makes_it_more_than_one_test() {
        let of = |text: &str| {
            remedy(
                &text
                    .split_whitespace()
                    .map(String::from)
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(of("-m x -p 512 -t 2"), "remove -p");
        assert_eq!(of("-fa 0,1 -t 2 -t 4"), "give -fa one value, give -t once");
        assert!(of("-m x -t 2").contains("jsonl"));
    }

    #[test]
    fn a_peer_needs_a_file() {
        assert!(Peer::new("", None).is_err());
        assert!(Peer::new("llama-bench -t 2", None).is_err());
        assert!(Peer::new("llama-bench -m x.gguf", None).is_ok());
        let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let peer = Peer::new("llama-bench", Some(&ours)).unwrap();
        assert_eq!(peer.arguments.len(), 3);
    }

    #[test]
    fn batches_are_of_our_very_weights() {
        let file = |name: &str| {
            let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gguf");
            fixtures.join(name)
        };
        let ours = file("phi3-longrope-bf16.gguf");
        let print = fingerprint(&Opened::open(&ours).unwrap().files.tensors);
        let why = |program: &str, theirs: &Path, print: Option<&str>| {
            let command = format!("{program} -m {}", theirs.display());
            let peer = Peer::new(&command, None).unwrap();
            let held = peer.must_have_file(Some(&ours), print);
            held.err().map_or(String::new(), |e| e.to_string())
        };
        let batched = "llama-batched-bench";
        assert_eq!(why(batched, &ours, None), "");
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("copy.gguf");
        std::fs::copy(&ours, &copy).unwrap();
        assert_eq!(why(batched, &copy, Some(&print)), "");
        let other = file("gemma3_text-deep-bf16.gguf");
        assert!(why(batched, &other, Some(&print)).contains("other weights"));
        assert!(why(batched, Path::new("no.gguf"), Some(&print)).contains("no.gguf"));
        // The rows of this one say what it runs.
        assert_eq!(why("llama-bench", &other, Some(&print)), "");
    }
}
