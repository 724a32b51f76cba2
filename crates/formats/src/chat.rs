//! Chat templates: a conversation to the one text that the model was trained on.
//!
//! Templates are Jinja written for Python; they run here with the settings that transformers
//! uses (trimmed blocks, Python's spelling of values and of JSON, its extra functions).

mod python;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Environment, ErrorKind, Value};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, excerpt};
use crate::tokenizer::TokenizerConfig;

/// Template instructions that one rendering may take; a conversation needs some hundreds for each
/// message, a runaway loop in a template takes any number.
const FUEL: u64 = 50_000_000;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    pub content: String,
    /// Further fields that the template may look at, such as `tool_calls`.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl ChatMessage {
    /// A message with nothing but a role and a text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            extra: serde_json::Map::new(),
        }
    }
}

/// A model's chat template, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    names: Vec<String>,
    special: Vec<(&'static str, String)>,
    file: PathBuf,
}

impl ChatTemplate {
    /// Loads the template of a model folder: chat_template.jinja, or `chat_template` in
    /// tokenizer_config.json. Errors: the model has none, or it is not valid Jinja.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        Self::from_config(&TokenizerConfig::from_dir(dir)?)
    }

    /// Like [`from_dir`](Self::from_dir), for a configuration that was already read.
    pub fn from_config(config: &TokenizerConfig) -> Result<Self> {
        Self::with_clock(config, Arc::new(unix_seconds))
    }

    fn with_clock(
        config: &TokenizerConfig,
        clock: Arc<dyn Fn() -> i64 + Send + Sync>,
    ) -> Result<Self> {
        if config.chat_templates.is_empty() {
            return Err(Error::NoChatTemplate {
                path: config.chat_template_file.clone(),
            });
        }
        let mut environment = environment(clock);
        let mut names = Vec::new();
        for (name, source) in &config.chat_templates {
            environment
                .add_template_owned(name.clone(), python::plain_generation_tags(source))
                .map_err(|e| template_error(&config.chat_template_file, &e))?;
            names.push(name.clone());
        }
        let special = [
            ("bos_token", &config.bos_token),
            ("eos_token", &config.eos_token),
            ("pad_token", &config.pad_token),
            ("unk_token", &config.unk_token),
        ];
        Ok(Self {
            environment,
            names,
            special: special
                .into_iter()
                .filter_map(|(name, token)| Some((name, token.clone()?)))
                .collect(),
            file: config.chat_template_file.clone(),
        })
    }

    /// Renders `messages`. `add_generation_prompt` ends the text where the assistant's next answer
    /// begins. `extra` sets further template variables (such as `tools`, or a model's own
    /// switches) and replaces those set here.
    ///
    /// Errors: the template refuses the conversation (its own words are quoted) or fails.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
        extra: serde_json::Map<String, serde_json::Value>,
    ) -> Result<String> {
        let has_tools = extra.get("tools").is_some_and(|tools| !tools.is_null());
        let name = self.choose(has_tools);
        let mut context = serde_json::Map::new();
        context.insert("messages".into(), json(messages));
        context.insert("add_generation_prompt".into(), add_generation_prompt.into());
        context.insert("tools".into(), serde_json::Value::Null);
        context.insert("documents".into(), serde_json::Value::Null);
        for (token, text) in &self.special {
            context.insert((*token).into(), text.clone().into());
        }
        context.extend(extra);
        self.environment
            .get_template(name)
            .and_then(|template| template.render(Value::from_serialize(&context)))
            .map_err(|e| template_error(&self.file, &e))
    }

    /// Models with several templates have one for tools; a lone template serves for all.
    fn choose(&self, has_tools: bool) -> &str {
        let wanted = if has_tools { "tool_use" } else { "default" };
        [wanted, "default"]
            .into_iter()
            .find(|name| self.names.iter().any(|n| n == name))
            .unwrap_or(&self.names[0])
    }
}

fn json(messages: &[ChatMessage]) -> serde_json::Value {
    let message = |m: &ChatMessage| {
        let mut fields = serde_json::Map::new();
        fields.insert("role".into(), m.role.clone().into());
        fields.insert("content".into(), m.content.clone().into());
        fields.extend(m.extra.clone());
        serde_json::Value::Object(fields)
    };
    messages.iter().map(message).collect()
}

fn environment(clock: Arc<dyn Fn() -> i64 + Send + Sync>) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_fuel(Some(FUEL));
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.set_formatter(python::format_value);
    env.add_filter("tojson", python::tojson);
    env.add_filter("string", python::string);
    env.add_test("iterable", python::is_iterable);
    env.add_function("raise_exception", |message: String| {
        Err::<Value, _>(minijinja::Error::new(
            ErrorKind::InvalidOperation,
            format!("{REFUSAL}{message}"),
        ))
    });
    env.add_function("strftime_now", move |format: &str| {
        python::strftime(format, clock())
    });
    env
}

const REFUSAL: &str = "the template refuses this conversation: ";

fn template_error(file: &Path, error: &minijinja::Error) -> Error {
    let detail = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_string);
    let problem = match error.line() {
        Some(line) if !detail.starts_with(REFUSAL) => format!("line {line}: {detail}"),
        _ => detail,
    };
    Error::ChatTemplate {
        path: file.to_path_buf(),
        problem: excerpt(&problem, 300),
    }
}

fn unix_seconds() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs() as i64)
}

#[cfg(test)]
mod tests;
