//! No command: the demonstration model answers a default prompt.

use crate::args::{SamplingArgs, TextArgs};
use crate::cmd::{Context, run};
use crate::output::Exit;
use std::path::{Path, PathBuf};

const MODEL: &str = "models/ferris-9m";
const PROMPT: &str = "What does `Vec::push` do?";

/// Names the folder that holds fixtures, for installations far from a checkout.
const FIXTURES_VARIABLE: &str = "ESPALIER_FIXTURES";

pub fn demo(context: &Context) -> anyhow::Result<Exit> {
    let args = run::RunArgs {
        model: find_model()?,
        text: TextArgs {
            prompt: Some(PROMPT.into()),
            file: None,
        },
        ids: None,
        max_tokens: 256,
        chat: true,
        system: None,
        special: false,
        json: false,
        sampling: SamplingArgs {
            greedy: true,
            ..SamplingArgs::default()
        },
        echo: Some(format!("> {PROMPT}")),
    };
    run::run(context, &args)
}

/// The demonstration model's folder.
pub fn find_model() -> anyhow::Result<PathBuf> {
    if let Some(root) = std::env::var_os(FIXTURES_VARIABLE) {
        let dir = Path::new(&root).join(MODEL);
        return match is_model(&dir) {
            true => Ok(dir),
            false => Err(anyhow::anyhow!(
                "{FIXTURES_VARIABLE} is set, but there is no {}; point it at the folder that holds {MODEL}",
                dir.join("config.json").display()
            )),
        };
    }
    let starts = [
        std::env::current_exe().ok(),
        std::env::current_dir().ok(),
        // Where this was built: last, because it says nothing about this machine.
        option_env!("CARGO_MANIFEST_DIR").map(PathBuf::from),
    ];
    let found = starts.iter().flatten().find_map(|start| above(start));
    found.ok_or_else(|| {
        anyhow::anyhow!(
            "the demonstration model is not here: no fixtures/{MODEL} above the program or the current folder; run in a checkout, set {FIXTURES_VARIABLE}, or give a model: engine run -m FOLDER -p TEXT"
        )
    })
}

fn above(start: &Path) -> Option<PathBuf> {
    start
        .ancestors()
        .map(|dir| dir.join("fixtures").join(MODEL))
        .find(|dir| is_model(dir))
}

fn is_model(dir: &Path) -> bool {
    dir.join("config.json").is_file()
}
