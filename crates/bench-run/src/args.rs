//! The command line.

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use registry::OpenOptions;
use runtime::{LoadOptions, Placement};
use sampling::SamplingParams;
use std::path::PathBuf;

/// The tree that runs what `--gpu-layers` and `--cpu-experts` leave to the CPU.
const SECOND: &str = "cpu_simd";

/// Measure a model's speed, with its correctness gate, and keep the evidence.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub measure: MeasureArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure with a peer in turn: ours, theirs, ours, theirs …
    Peer(Box<PeerArgs>),
    /// Compare two artifacts: a table and a verdict
    Compare(CompareArgs),
    /// Make a Markdown report with charts of a folder's artifacts
    Report(ReportArgs),
    /// Measure the variants of kernels and write the fastest down for this device
    Tune(TuneArgs),
    /// Check artifacts against the schema
    Check(CheckArgs),
    /// Load a model and read a prompt: the process that --processes times
    #[command(hide = true)]
    FirstToken(FirstTokenArgs),
}

#[derive(Clone, Debug, Args)]
pub struct MeasureArgs {
    /// Model folder or GGUF file
    #[arg(short, long, conflicts_with = "synthetic")]
    pub model: Option<PathBuf>,
    /// Random weights of a real shape instead of a file, such as qwen3-1.7b:q4_k_m
    #[arg(long, value_name = "SHAPE:QUANT")]
    pub synthetic: Option<String>,
    /// Layers of a synthetic model, where they are to be fewer than its own
    #[arg(long, requires = "synthetic")]
    pub layers: Option<usize>,
    #[command(flatten)]
    pub load: LoadArgs,
    /// Tokens of the prompt whose processing is timed
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt_tokens: u32,
    /// Tokens generated one at a time
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub gen_tokens: u32,
    /// Tokens that are in the cache before the prompt or the first token
    #[arg(long, default_value_t = 0)]
    pub depth: u32,
    /// Sequences that also decode together, each behind a prompt of its own of --depth
    /// tokens
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub batch: u32,
    /// Time answers of drawn tokens, too, by these parameters, such as
    /// '{"temperature": 0.8, "top_p": 0.95}'; all others are greedy
    #[arg(long, value_name = "JSON", value_parser = sampling)]
    pub sampling: Option<SamplingParams>,
    /// Runs that are not counted
    #[arg(long, default_value_t = 1)]
    pub warmup: u32,
    /// Runs that are
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Times that the model is loaded
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub loads: u32,
    /// Whole processes that load the model and read a prompt of 64 tokens, ours and each
    /// peer's in turn, timed from start to end
    #[arg(long, default_value_t = 0)]
    pub processes: u32,
    /// The program that those of ours run, where it is not this one
    #[arg(long, hide = true)]
    pub program: Option<PathBuf>,
    /// Least time of a sample in milliseconds: short prompts and answers are
    /// repeated until it is over
    #[arg(long, default_value_t = 300)]
    pub sample_ms: u64,
    /// A command of llama-bench or llama-batched-bench to run between ours; the model,
    /// the workload and the form of output are added. May be given several times
    #[arg(long)]
    pub peer: Vec<String>,
    /// Write the artifact here
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Skip the gate: the run is only a diagnostic
    #[arg(long)]
    pub no_gate: bool,
    /// About how many seconds the oracle may take in the gate
    #[arg(long, default_value_t = 300)]
    pub gate_limit: u64,
    /// Time every step of one decode and one prefill
    #[arg(long)]
    pub profile: bool,
    /// State perplexity on this text, with --against also the KL to that model
    #[arg(long)]
    pub text: Option<PathBuf>,
    /// The unquantised model to state the KL and top-1 against
    #[arg(long, requires = "text")]
    pub against: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct DeviceArgs {
    /// Backend, or auto
    #[arg(long, default_value = "auto")]
    pub backend: String,
    /// Device of the backend, by number or part of its name
    #[arg(long)]
    pub device: Option<String>,
    /// Threads of a CPU backend
    #[arg(long)]
    pub threads: Option<usize>,
    /// Pretend that the CPU has no more than this instruction set
    #[arg(long)]
    pub isa: Option<hal::cpu::IsaLevel>,
    /// Pin every CPU thread to a core of its own
    #[arg(long)]
    pub pin: bool,
}

/// What decides which plans a model runs on: a process of ours is given all of it, or
/// it would time something else than its parent does.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Layers on the GPU, counted from the last; the others stay on the CPU. More than
    /// the model has takes the output head along
    #[arg(long)]
    pub gpu_layers: Option<usize>,
    /// Keep the experts of so many first layers on the CPU
    #[arg(long, default_value_t = 0)]
    pub cpu_experts: usize,
    /// KV scheme, of those that the backend has
    #[arg(long)]
    pub kv: Option<String>,
    /// Use no fused kernels
    #[arg(long)]
    pub no_fusion: bool,
}

impl LoadArgs {
    pub fn options(&self) -> LoadOptions {
        LoadOptions {
            open: self.device.open_options(),
            fusion: !self.no_fusion,
            kv: self.kv.clone(),
            placement: Some(Placement {
                gpu_layers: self.gpu_layers,
                cpu_experts: self.cpu_experts,
                ..Placement::new(SECOND)
            }),
            ..LoadOptions::new(&self.device.backend)
        }
    }

    /// The flags that give these arguments again, on another backend: the one that was
    /// chosen where `auto` was asked for.
    pub fn flags(&self, backend: &str) -> Vec<String> {
        // Without a rest, so that no field that is added is forgotten here.
        let LoadArgs {
            device,
            gpu_layers,
            cpu_experts,
            kv,
            no_fusion,
        } = self;
        let DeviceArgs {
            backend: _,
            device,
            threads,
            isa,
            pin,
        } = device;
        let given = [
            ("--backend", Some(backend.to_string())),
            ("--device", device.clone()),
            ("--threads", threads.map(|n| n.to_string())),
            ("--isa", isa.map(|isa| isa.name().to_string())),
            ("--gpu-layers", gpu_layers.map(|n| n.to_string())),
            ("--cpu-experts", Some(cpu_experts.to_string())),
            ("--kv", kv.clone()),
        ];
        let given = given.into_iter().filter_map(|(flag, v)| Some((flag, v?)));
        let mut flags: Vec<String> = given.flat_map(|(flag, v)| [flag.into(), v]).collect();
        for (flag, on) in [("--pin", pin), ("--no-fusion", no_fusion)] {
            flags.extend(on.then(|| flag.to_string()));
        }
        flags
    }
}

impl DeviceArgs {
    pub fn open_options(&self) -> OpenOptions {
        OpenOptions {
            device: self.device.clone(),
            threads: self.threads,
            isa: self.isa,
            pin: self.pin,
        }
    }
}

#[derive(Debug, Args)]
pub struct PeerArgs {
    /// The peer's command; may be given several times, the best of them counts
    #[arg(long, required = true)]
    pub exec: Vec<String>,
    #[command(flatten)]
    pub measure: MeasureArgs,
}

#[derive(Debug, Args)]
pub struct FirstTokenArgs {
    /// Model folder or GGUF file
    #[arg(short, long)]
    pub model: PathBuf,
    #[command(flatten)]
    pub load: LoadArgs,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt_tokens: u32,
}

#[derive(Debug, Args)]
pub struct CompareArgs {
    /// What is compared with
    pub before: PathBuf,
    /// What is compared
    pub after: PathBuf,
    /// Fail where a metric of AFTER is below this share of BEFORE's
    #[arg(long, value_name = "RATIO")]
    pub fail_below: Option<f64>,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Folder of artifacts
    pub dir: PathBuf,
    /// Write report.md, roofline.md and their charts to this folder instead
    #[arg(long)]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct TuneArgs {
    /// Model whose kernels are tuned
    #[arg(short, long, conflicts_with = "synthetic")]
    pub model: Option<PathBuf>,
    /// Random weights of a real shape instead of a file
    #[arg(long, value_name = "SHAPE:QUANT")]
    pub synthetic: Option<String>,
    /// Layers of a synthetic model: four tell as much as all
    #[arg(long, requires = "synthetic")]
    pub layers: Option<usize>,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// File to write; registry/tuned/<backend>-<device>.toml by default
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Timed repetitions of each step
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..))]
    pub repeats: u32,
    /// Tokens of the largest step: the backend's own by default, up to half of the
    /// model's context
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt_tokens: Option<u32>,
    /// Tokens in the cache, beside an empty one: a variant must win with either
    #[arg(long, default_value_t = 4096)]
    pub depth: u32,
    /// About how many seconds the oracle may take in the gate
    #[arg(long, default_value_t = 300)]
    pub gate_limit: u64,
    /// By how much a variant must beat the one of highest rank to be picked
    #[arg(long, default_value_t = 0.03)]
    pub margin: f64,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Artifacts, or folders of them
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
}

/// Where weights come from.
#[derive(Clone, Debug)]
pub enum Source {
    File(PathBuf),
    Synthetic { what: String, layers: Option<usize> },
}

impl Source {
    pub fn of(
        model: &Option<PathBuf>,
        synthetic: &Option<String>,
        layers: Option<usize>,
    ) -> Result<Self> {
        match (model, synthetic) {
            (Some(path), None) => Ok(Source::File(path.clone())),
            (None, Some(what)) => Ok(Source::Synthetic {
                what: what.clone(),
                layers,
            }),
            _ => bail!("give a model: --model PATH or --synthetic SHAPE:QUANT"),
        }
    }
}

/// Parameters of a request, which are some.
fn sampling(text: &str) -> Result<SamplingParams, String> {
    let params: SamplingParams = serde_json::from_str(text).map_err(|e| e.to_string())?;
    params.validate().map_err(|e| e.to_string())?;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn both_forms_are_understood() {
        let plain = Cli::try_parse_from(["bench-run", "--model", "m", "--peer", "llama-bench"]);
        assert!(plain.is_ok_and(|c| c.command.is_none() && c.measure.peer.len() == 1));
        let peer = ["bench-run", "peer", "--exec", "llama-bench", "--model", "m"];
        assert!(Cli::try_parse_from(peer).is_ok());
        assert!(Cli::try_parse_from(["bench-run", "peer", "--model", "m"]).is_err());
        assert!(Cli::try_parse_from(["bench-run", "-m", "a", "--synthetic", "b"]).is_err());
    }

    /// A process of ours runs what its parent states.
    #[test]
    fn processes_are_given_what_decides_their_plans() {
        let flags = "--device 1 --threads 3 --isa avx2 --pin --kv int8_kv --no-fusion \
            --gpu-layers 7 --cpu-experts 2";
        let parse = |text: String| Cli::try_parse_from(text.split_whitespace());
        for given in ["", flags] {
            let ours = parse(format!("bench-run -m m --backend cpu_simd {given}"));
            let ours = ours.expect("arguments").measure.load;
            let flags = ours.flags("cpu_simd").join(" ");
            let child = parse(format!("bench-run first-token -m m {flags}"));
            let Some(Command::FirstToken(child)) = child.expect("arguments").command else {
                panic!("another command");
            };
            let same = format!("{:?}", ours.options());
            assert_eq!(format!("{:?}", child.load.options()), same);
            assert_eq!(same.contains("fusion: false"), !given.is_empty());
        }
    }
}
