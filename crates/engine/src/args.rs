//! What may be written on the command line.

use crate::cmd;
use clap::{ArgAction, Args, Parser, Subcommand};
use hal::cpu::IsaLevel;
use registry::OpenOptions;
use runtime::{LoadOptions, Placement};
use sampling::SamplingParams;
use std::path::PathBuf;

use crate::output::Usage;

/// The tree that runs what `--gpu-layers` and `--cpu-experts` leave to the CPU.
pub const SECOND: &str = "cpu_simd";

const AFTER_HELP: &str = "\
Without a command, the demonstration model answers a default prompt.

Generated and machine-readable text goes to standard output, everything else to
standard error.

Exit codes:
  0    done
  1    it failed: a damaged model, too little memory, a device that refused
  2    the command line was not understood
  3    `verify`: a gate failed
  130  interrupted";

#[derive(Parser, Debug)]
#[command(
    name = "engine",
    version,
    about = "Espalier runs language models on the GPU or CPU that is there.",
    after_help = AFTER_HELP,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArgs,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Continue a prompt (or answer it, with --chat)
    Run(cmd::run::RunArgs),
    /// Talk with a model
    Chat(cmd::chat::ChatArgs),
    /// Write the logits of given token ids to a safetensors file
    Logits(cmd::logits::LogitsArgs),
    /// Show the tokens of a text, or the text of tokens
    Tokenize(cmd::tokenize::TokenizeArgs),
    /// Describe a model: architecture, tensors, sizes, memory it needs
    Inspect(cmd::inspect::InspectArgs),
    /// List the registered kernels
    Kernels(cmd::kernels::KernelsArgs),
    /// Show which kernels a model would run with, and why
    Plan(cmd::plan::PlanArgs),
    /// Perplexity of a text, and KL against another model or backend
    Eval(cmd::eval::EvalArgs),
    /// Check kernels and a model against the oracle on this machine
    Verify(cmd::verify::VerifyArgs),
    /// Show backends, devices and CPU features, and what to do about what is missing
    Doctor(cmd::doctor::DoctorArgs),
}

/// Flags that every command takes.
#[derive(Args, Debug)]
#[command(next_help_heading = "Every command")]
pub struct GlobalArgs {
    /// Kernel tree to run on; `auto` takes the best device that is not a software one
    #[arg(long, global = true, value_name = "NAME", default_value = runtime::device::AUTO)]
    pub backend: String,

    /// Device of that backend: its number or uuid, as `doctor` lists them
    #[arg(long, global = true, value_name = "N|UUID")]
    pub device: Option<String>,

    /// CPU threads [default: the cores this process may use]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,

    /// Tokens of context [default: the model's own, up to 4096]
    #[arg(long, global = true, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    pub ctx: Option<usize>,

    /// Use no CPU instructions beyond this level (portable; x86: avx2, avx512, avx512bf16, amx; ARM: neon, dotprod, i8mm)
    #[arg(long, global = true, value_name = "LEVEL")]
    pub cpu_isa: Option<IsaLevel>,

    /// Pin every CPU thread to a core of its own
    #[arg(long, global = true)]
    pub cpu_pin: bool,

    /// Run primitive kernels only, no fused ones
    #[arg(long, global = true)]
    pub no_fusion: bool,

    /// Storage scheme of the KV cache [default: the backend's]
    #[arg(long, global = true, value_name = "SCHEME")]
    pub kv: Option<String>,

    /// Layers on the GPU, counted from the last; the others, and their caches, stay on the CPU. More than the model has, or `all`, takes the output head along [default: all]
    #[arg(long, global = true, value_name = "N|all", value_parser = layers, allow_negative_numbers = true)]
    pub gpu_layers: Option<usize>,

    /// Keep the experts of the first N layers on the CPU, everything else on the GPU
    #[arg(long, global = true, value_name = "N|all", value_parser = layers, allow_negative_numbers = true, default_value = "0", hide_default_value = true)]
    pub cpu_experts: usize,

    /// Say nothing but errors on standard error
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// Say more about the model and each answer; twice: list the decode plan too
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

impl GlobalArgs {
    pub fn open_options(&self) -> OpenOptions {
        OpenOptions {
            device: self.device.clone(),
            threads: self.threads,
            isa: self.cpu_isa,
            pin: self.cpu_pin,
        }
    }

    fn placement(&self) -> Placement {
        Placement {
            gpu_layers: self.gpu_layers,
            cpu_experts: self.cpu_experts,
            ..Placement::new(SECOND)
        }
    }

    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            open: self.open_options(),
            context: self.ctx,
            fusion: !self.no_fusion,
            kv: self.kv.clone(),
            placement: Some(self.placement()),
            ..LoadOptions::new(&self.backend)
        }
    }
}

/// Sampling flags of `run` and `chat`. What is not given comes from the model's
/// generation_config.json.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Always take the most probable token; penalties and biases still count
    #[arg(long, conflicts_with = "temp")]
    pub greedy: bool,

    /// Temperature; 0 is greedy
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temp: Option<f32>,

    /// Keep the K most probable tokens; 0 keeps all
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub top_k: Option<u32>,

    /// Keep the most probable tokens that together reach P; 1 keeps all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,

    /// Drop tokens less probable than P times the most probable; 0 keeps all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f32>,

    /// Divide the logits of tokens that occurred; 1 is off
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub repeat_penalty: Option<f32>,

    /// Subtract from the logits of generated tokens, once each; -2 to 2
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,

    /// Subtract from the logits of generated tokens, each time; -2 to 2
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,

    /// Add V to the logit of token ID (`-inf` bans it); may be repeated
    #[arg(long, value_name = "ID=V", value_parser = logit_bias, allow_hyphen_values = true)]
    pub logit_bias: Vec<(u32, f32)>,

    /// Seed of the random numbers: a number, or `random` [default: 0]
    #[arg(long, value_name = "N", value_parser = seed, allow_negative_numbers = true)]
    pub seed: Option<u64>,

    /// End the answer before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,

    /// Do not end at the model's end tokens
    #[arg(long)]
    pub ignore_eos: bool,
}

impl SamplingArgs {
    /// The flags over what the model suggests. A model that suggests nothing at all
    /// gets temperature 0.8 and top-p 0.95.
    pub fn params(&self, model: &formats::GenerationDefaults) -> Result<SamplingParams, Usage> {
        let silent = model.do_sample.is_none()
            && model.temperature.is_none()
            && model.top_k.is_none()
            && model.top_p.is_none()
            && model.min_p.is_none();
        let neutral = SamplingParams::default();
        let (temperature, top_p) = match (silent, model.do_sample) {
            (true, _) => (0.8, 0.95),
            // Decoding without sampling is what such a model was published with.
            (_, Some(false)) => (0.0, neutral.top_p),
            _ => (neutral.temperature, neutral.top_p),
        };
        let own_temperature = match model.do_sample {
            Some(false) => None,
            _ => model.temperature,
        };
        let greedy = self.greedy.then_some(0.0);
        let params = SamplingParams {
            temperature: greedy
                .or(self.temp)
                .or(own_temperature)
                .unwrap_or(temperature),
            top_k: self.top_k.or(model.top_k).unwrap_or(neutral.top_k),
            top_p: self.top_p.or(model.top_p).unwrap_or(top_p),
            min_p: self.min_p.or(model.min_p).unwrap_or(neutral.min_p),
            repetition_penalty: match (self.repeat_penalty, self.greedy) {
                (Some(p), _) => p,
                // --greedy alone means the model's own most probable token.
                (None, true) => neutral.repetition_penalty,
                (None, false) => model
                    .repetition_penalty
                    .unwrap_or(neutral.repetition_penalty),
            },
            presence_penalty: self.presence_penalty.unwrap_or(neutral.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(neutral.frequency_penalty),
            penalty_last_n: neutral.penalty_last_n,
            logit_bias: self.logit_bias.clone(),
            seed: self.seed.unwrap_or(neutral.seed),
        };
        params
            .validate()
            .map_err(|e| Usage(format!("sampling: {e}")))?;
        if self.stop.iter().any(String::is_empty) {
            return Err(Usage("--stop: the text is empty; give some".into()));
        }
        Ok(params)
    }
}

/// Where a prompt comes from.
#[derive(Args, Debug, Default)]
pub struct TextArgs {
    /// The text
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    pub prompt: Option<String>,

    /// A file that holds the text (UTF-8; a last newline is dropped); `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let wanted = "wanted ID=V, such as 42=-inf";
    let (id, value) = text.split_once('=').ok_or(wanted)?;
    let id = id
        .trim()
        .parse()
        .map_err(|_| format!("'{id}' is no token id; {wanted}"))?;
    let value = value
        .trim()
        .parse()
        .map_err(|_| format!("'{value}' is no number; {wanted}"))?;
    Ok((id, value))
}

fn seed(text: &str) -> Result<u64, String> {
    if text == "random" {
        // The standard library keys each hasher from the system's random numbers.
        use std::hash::{BuildHasher, Hasher};
        return Ok(std::hash::RandomState::new().build_hasher().finish());
    }
    text.parse()
        .map_err(|_| format!("wanted a number from 0 to {} or `random`", u64::MAX))
}

pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("wanted a whole number above 0".into()),
    }
}

/// A number of layers; all of them are more than any model has.
fn layers(text: &str) -> Result<usize, String> {
    match text {
        "all" => Ok(usize::MAX),
        number => number
            .parse()
            .map_err(|_| "wanted a number of layers, from 0, or `all`".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use formats::GenerationDefaults;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_go_before_or_after_the_command() {
        for line in [
            ["engine", "--ctx", "7", "doctor"],
            ["engine", "doctor", "--ctx", "7"],
        ] {
            assert_eq!(Cli::try_parse_from(line).unwrap().global.ctx, Some(7));
        }
    }

    #[test]
    fn placements_are_read() {
        let read = |line: &[&str]| Cli::try_parse_from(line).map(|c| c.global.placement());
        let none = read(&["engine", "doctor"]).unwrap();
        assert!(!none.is_given() && none.second == SECOND);
        let some = read(&["engine", "doctor", "--gpu-layers", "20", "--cpu-experts=4"]).unwrap();
        assert_eq!((some.gpu_layers, some.cpu_experts), (Some(20), 4));
        let all = read(&["engine", "--gpu-layers", "all", "--cpu-experts", "all"]).unwrap();
        assert_eq!(
            (all.gpu_layers, all.cpu_experts),
            (Some(usize::MAX), usize::MAX)
        );
        assert!(read(&["engine", "--gpu-layers", "0"]).unwrap().is_given());
        for wrong in ["-1", "some", "1.5", ""] {
            let e = read(&["engine", "--gpu-layers", wrong]).unwrap_err();
            assert!(e.to_string().contains("or `all`"), "{wrong}: {e}");
        }
    }

    #[test]
    fn flags_go_over_the_model_and_the_model_over_defaults() {
        let model = GenerationDefaults {
            temperature: Some(0.7),
            top_p: Some(0.9),
            repetition_penalty: Some(1.05),
            ..GenerationDefaults::default()
        };
        let own = SamplingArgs::default().params(&model).unwrap();
        assert_eq!((own.temperature, own.top_p, own.top_k), (0.7, 0.9, 0));
        assert_eq!(own.repetition_penalty, 1.05);
        let flags = SamplingArgs {
            temp: Some(0.3),
            top_k: Some(5),
            ..SamplingArgs::default()
        };
        let over = flags.params(&model).unwrap();
        assert_eq!((over.temperature, over.top_p, over.top_k), (0.3, 0.9, 5));
        let silent = SamplingArgs::default()
            .params(&GenerationDefaults::default())
            .unwrap();
        assert_eq!((silent.temperature, silent.top_p), (0.8, 0.95));
    }

    #[test]
    fn greedy_means_the_largest_logit_of_the_model() {
        let model = GenerationDefaults {
            temperature: Some(0.7),
            repetition_penalty: Some(1.3),
            ..GenerationDefaults::default()
        };
        let greedy = SamplingArgs {
            greedy: true,
            ..SamplingArgs::default()
        };
        let params = greedy.params(&model).unwrap();
        assert!(params.is_greedy());
        assert_eq!(params.repetition_penalty, 1.0);
        let unsampled = GenerationDefaults {
            do_sample: Some(false),
            ..model
        };
        let params = SamplingArgs::default().params(&unsampled).unwrap();
        assert!(params.is_greedy());
    }

    #[test]
    fn bias_and_seed_are_read() {
        assert_eq!(logit_bias("3=-inf"), Ok((3, f32::NEG_INFINITY)));
        assert!(logit_bias("3").is_err() && logit_bias("x=1").is_err());
        assert_eq!(seed("18446744073709551615"), Ok(u64::MAX));
        assert!(seed("-1").is_err() && seed("random").is_ok());
    }
}
