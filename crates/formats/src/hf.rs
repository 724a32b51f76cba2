//! A model folder in Hugging Face's form: `config.json`, optional `generation_config.json`,
//! safetensors weights.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::{ConfigView, MAX_DIM, parse_json, read_limited};
use crate::error::{Error, Result};
use crate::safetensors;
use crate::tensors::TensorStore;

const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// How a model's authors suggest to sample from it. `None` where they say nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Any of these ends an answer. From generation_config.json, or config.json where that file
    /// or its field is absent.
    pub eos_token_ids: Vec<u32>,
    pub bos_token_id: Option<u32>,
    pub pad_token_id: Option<u32>,
    /// ≥ 0; 0 means greedy.
    pub temperature: Option<f32>,
    /// 0 means no limit.
    pub top_k: Option<u32>,
    /// From 0 to 1.
    pub top_p: Option<f32>,
    /// From 0 to 1.
    pub min_p: Option<f32>,
    /// Above 0; 1 means none.
    pub repetition_penalty: Option<f32>,
    pub do_sample: Option<bool>,
}

/// An opened model folder.
#[derive(Debug, Clone)]
pub struct HfDir {
    /// The folder.
    pub path: PathBuf,
    /// config.json, known to be an object.
    pub config: Value,
    pub generation: GenerationDefaults,
    pub tensors: TensorStore,
    config_path: PathBuf,
}

impl HfDir {
    /// Opens a model folder, given its path or that of a file in it. Maps the weights without
    /// reading them.
    pub fn open(path: &Path) -> Result<Self> {
        let dir = resolve_model_dir(path)?;
        let (config_path, config) = read_config(&dir)?;
        let generation = read_generation(&dir, ConfigView::new(&config, &config_path)?)?;
        let tensors = safetensors::open_dir(&dir)?;
        Ok(Self {
            path: dir,
            config,
            generation,
            tensors,
            config_path,
        })
    }

    /// Checked access to config.json.
    pub fn view(&self) -> Result<ConfigView<'_>> {
        ConfigView::new(&self.config, &self.config_path)
    }
}

/// The model folder that `path` means: itself, or the folder of the file it names.
pub fn resolve_model_dir(path: &Path) -> Result<PathBuf> {
    if path.is_dir() {
        return Ok(path.to_path_buf());
    }
    if !path.exists() {
        return Err(Error::Missing {
            wanted: "model folder",
            path: path.to_path_buf(),
            hint: missing_model_hint(path),
        });
    }
    if is_gguf(path) {
        return Err(Error::Missing {
            wanted: "model in Hugging Face form",
            path: path.with_file_name("config.json"),
            hint: "a GGUF file was given where a folder with config.json and safetensors is needed"
                .into(),
        });
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => Ok(parent.to_path_buf()),
        _ => Ok(PathBuf::from(".")),
    }
}

/// Whether a path is that of a GGUF file, by its name.
pub(crate) fn is_gguf(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

fn missing_model_hint(path: &Path) -> String {
    const GIVE: &str = "give a folder that holds config.json and safetensors weights";
    // What starts like a path is meant as one.
    match path.to_string_lossy().starts_with(['.', '/', '~']) {
        true => format!("{GIVE}, or a GGUF file"),
        false => format!(
            "{GIVE}, a GGUF file, or OWNER/NAME of a model that was downloaded from the Hugging Face Hub"
        ),
    }
}

/// Reads a folder's config.json: its path and contents. Error: absent, too large, not an object.
pub fn read_config(dir: &Path) -> Result<(PathBuf, Value)> {
    let path = dir.join("config.json");
    if !path.exists() {
        return Err(Error::Missing {
            wanted: "model configuration",
            path,
            hint: "give a folder with config.json beside the weights".into(),
        });
    }
    let value = read_json(&path)?;
    ConfigView::new(&value, &path)?;
    Ok((path, value))
}

/// Reads generation defaults from a folder whose config.json is `config`.
pub fn read_generation(dir: &Path, config: ConfigView<'_>) -> Result<GenerationDefaults> {
    let path = dir.join("generation_config.json");
    let value = if path.exists() {
        read_json(&path)?
    } else {
        Value::Object(serde_json::Map::new())
    };
    let own = ConfigView::new(&value, &path)?;
    let ids = |view: &ConfigView<'_>, field| {
        let ids = view.opt_usizes_in(field, 0..=MAX_DIM)?;
        // In range by the check above.
        Ok(ids.map(|ids| ids.into_iter().map(|id| id as u32).collect::<Vec<_>>()))
    };
    // Multimodal configurations keep the language model's fields one level down.
    let text = config.opt_object("text_config").ok().flatten();
    let find = |field| -> Result<Option<Vec<u32>>> {
        if let Some(found) = ids(&own, field)? {
            return Ok(Some(found));
        }
        if let Some(found) = ids(&config, field)? {
            return Ok(Some(found));
        }
        text.as_ref().map_or(Ok(None), |text| ids(text, field))
    };
    // These two are for information only: files that write -1 for "none" are not refused.
    let first = |field| find(field).ok().flatten()?.first().copied();
    let unit = |field| Ok::<_, Error>(own.opt_f64_in(field, 0.0..=1.0)?.map(|x| x as f32));
    Ok(GenerationDefaults {
        eos_token_ids: find("eos_token_id")?.unwrap_or_default(),
        bos_token_id: first("bos_token_id"),
        pad_token_id: first("pad_token_id"),
        temperature: own
            .opt_f64_in("temperature", 0.0..=100.0)?
            .map(|x| x as f32),
        // Some tools write -1 for "no limit".
        top_k: match own.get("top_k").and_then(Value::as_i64) {
            Some(-1) => Some(0),
            _ => own.opt_usize_in("top_k", 0..=MAX_DIM)?.map(|k| k as u32),
        },
        top_p: unit("top_p")?,
        min_p: unit("min_p")?,
        repetition_penalty: own
            .opt_f64_in("repetition_penalty", 1e-3..=1e3)?
            .map(|x| x as f32),
        do_sample: own.opt_bool("do_sample")?,
    })
}

fn read_json(path: &Path) -> Result<Value> {
    parse_json(
        path,
        &read_limited(path, "a configuration", MAX_CONFIG_BYTES)?,
    )
}
