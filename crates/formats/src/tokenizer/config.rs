//! tokenizer_config.json: special tokens by name, and chat templates.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::{ConfigView, parse_json, read_limited};
use crate::error::Result;

const MAX_BYTES: u64 = 64 << 20;

/// The parts of tokenizer_config.json (and special_tokens_map.json, which older models have) that
/// are used here.
#[derive(Debug, Clone, Default)]
pub struct TokenizerConfig {
    pub bos_token: Option<String>,
    pub eos_token: Option<String>,
    pub pad_token: Option<String>,
    pub unk_token: Option<String>,
    /// Overrides whether a beginning token is added; `None` leaves it to tokenizer.json.
    pub add_bos_token: Option<bool>,
    /// Overrides whether an end token is added; `None` leaves it to tokenizer.json.
    pub add_eos_token: Option<bool>,
    /// Chat templates by name; a lone one is called `default`.
    pub chat_templates: Vec<(String, String)>,
    /// The file that the templates come from.
    pub chat_template_file: PathBuf,
}

impl TokenizerConfig {
    /// Reads what a model folder has; absent files leave fields empty.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer_config.json");
        let value = read_optional(&path)?;
        let view = ConfigView::new(&value, &path)?;
        let map_path = dir.join("special_tokens_map.json");
        let map_value = read_optional(&map_path)?;
        let map = ConfigView::new(&map_value, &map_path)?;
        let token = |field: &str| -> Result<Option<String>> {
            match token_text(&view, field)? {
                Some(text) => Ok(Some(text)),
                // An explicit null says that the model has no such token.
                None if value.get(field).is_some() => Ok(None),
                None => token_text(&map, field),
            }
        };
        let mut config = Self {
            bos_token: token("bos_token")?,
            eos_token: token("eos_token")?,
            pad_token: token("pad_token")?,
            unk_token: token("unk_token")?,
            add_bos_token: view.opt_bool("add_bos_token")?,
            add_eos_token: view.opt_bool("add_eos_token")?,
            chat_templates: named_templates(&view)?,
            chat_template_file: path.clone(),
        };
        let file = dir.join("chat_template.jinja");
        if file.exists() {
            let text = read_limited(&file, "a chat template", MAX_BYTES)?;
            let text = String::from_utf8(text)
                .map_err(|_| crate::Error::json(&file, "it is not UTF-8 text"))?;
            config.chat_templates.retain(|(name, _)| name != "default");
            config.chat_templates.insert(0, ("default".into(), text));
            config.chat_template_file = file;
        }
        Ok(config)
    }
}

fn read_optional(path: &Path) -> Result<Value> {
    if !path.exists() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    parse_json(
        path,
        &read_limited(path, "a tokenizer configuration", MAX_BYTES)?,
    )
}

/// A token is written as a string, or as an object with its text in `content`.
fn token_text(view: &ConfigView<'_>, field: &str) -> Result<Option<String>> {
    match view.get(field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Object(_)) => Ok(Some(view.object(field)?.str("content")?.to_string())),
        Some(_) => Err(view.invalid(field, "a token's text")),
    }
}

fn named_templates(view: &ConfigView<'_>) -> Result<Vec<(String, String)>> {
    const FIELD: &str = "chat_template";
    let wanted = "a template, or a list of {name, template}";
    match view.get(FIELD) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![("default".into(), text.clone())]),
        Some(Value::Array(list)) => list
            .iter()
            .map(|entry| {
                let part = |key| Some(entry.get(key)?.as_str()?.to_string());
                part("name")
                    .zip(part("template"))
                    .ok_or_else(|| view.invalid(FIELD, wanted))
            })
            .collect(),
        Some(_) => Err(view.invalid(FIELD, wanted)),
    }
}
