//! Models named as on the Hugging Face Hub, from caches as its tools fill them.
#![cfg(unix)]

mod common;
#[path = "common/gguf.rs"]
#[allow(dead_code, reason = "gguf.rs uses the rest")]
mod gguf;

use common::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const SMALL: &str = "qwen2-tied-bf16";
const SHARDED: &str = "llama-linear-mqa-f16";
const HASH: &str = "5f0b02c75b57c5855da9ae460ce51323ea669d8a";

/// A cache folder with one repository: contents in `blobs`, links to them in a snapshot.
struct Cache {
    home: TempDir,
    hub: PathBuf,
}

impl Cache {
    fn new(below: &str) -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let hub = home.path().join(below);
        Cache { home, hub }
    }

    fn repository(&self, name: &str) -> PathBuf {
        let folder = format!("models--{}", name.replace('/', "--"));
        self.hub.join(folder)
    }

    /// Puts the files of `from` there as revision `main` of `name`.
    fn fill(&self, name: &str, from: &Path) {
        let repository = self.repository(name);
        let snapshot = repository.join("snapshots").join(HASH);
        for folder in [
            &snapshot,
            &repository.join("refs"),
            &repository.join("blobs"),
        ] {
            fs::create_dir_all(folder).expect("writable");
        }
        fs::write(repository.join("refs/main"), HASH).expect("writable");
        let files = fs::read_dir(from).expect("the fixture is there");
        for (i, file) in files.enumerate() {
            let file = file.expect("a readable folder");
            let blob = format!("{i:040x}");
            fs::copy(file.path(), repository.join("blobs").join(&blob)).expect("a copy");
            let link = snapshot.join(file.file_name());
            std::os::unix::fs::symlink(Path::new("../../blobs").join(blob), link).expect("a link");
        }
    }

    fn snapshot(&self, name: &str) -> PathBuf {
        self.repository(name).join("snapshots").join(HASH)
    }

    /// The program with no cache but those of `variables`.
    fn engine(&self, variables: &[(&str, &Path)]) -> Command {
        let mut command = engine();
        for name in [
            "HF_HUB_CACHE",
            "HUGGINGFACE_HUB_CACHE",
            "HF_HOME",
            "XDG_CACHE_HOME",
        ] {
            command.env_remove(name);
        }
        command.env("HOME", self.home.path());
        command.envs(variables.iter().copied());
        // Nothing there is called as the models are.
        command.current_dir(self.home.path());
        command
    }

    fn generate(&self, variables: &[(&str, &Path)], model: &str) -> Output {
        let mut command = self.engine(variables);
        command.args(["run", "-q", "--backend", ORACLE, "-m", model]);
        command.args(["--ids", "1,2,3", "-n", "4", "--greedy", "--json"]);
        command.output().expect("the program starts")
    }
}

fn tokens(output: Output) -> serde_json::Value {
    json(output)["tokens"].clone()
}

/// What the model in a folder says.
fn wanted(folder: &Path) -> serde_json::Value {
    let folder = folder.to_str().expect("UTF-8");
    let cache = Cache::new("none");
    tokens(cache.generate(&[], folder))
}

#[test]
fn a_model_is_found_in_every_place() {
    let wanted = wanted(&model(SMALL));
    for (variable, at, below) in [
        ("HF_HUB_CACHE", "x", "x"),
        ("HUGGINGFACE_HUB_CACHE", "x", "x"),
        ("HF_HOME", "x", "x/hub"),
        ("XDG_CACHE_HOME", "x", "x/huggingface/hub"),
        ("NOTHING", "x", ".cache/huggingface/hub"),
    ] {
        let cache = Cache::new(below);
        cache.fill("acme/tiny-1.5", &model(SMALL));
        let at = cache.home.path().join(at);
        let set = [(variable, at.as_path())];
        for name in [
            "acme/tiny-1.5",
            "acme/tiny-1.5@main",
            "acme/tiny-1.5@5f0b02c75b",
        ] {
            assert_eq!(
                tokens(cache.generate(&set, name)),
                wanted,
                "{variable} {name}"
            );
        }
    }
}

#[test]
fn a_folder_of_that_name_comes_first() {
    let cache = Cache::new("hub");
    let hub = [("HF_HUB_CACHE", cache.hub.as_path())];
    cache.fill("acme/tiny", &model(SMALL));
    let folder = cache.home.path().join("acme/tiny");
    fs::create_dir_all(&folder).expect("writable");
    refused(cache.generate(&hub, "acme/tiny"), 1, "config.json");
    for file in fs::read_dir(model(SHARDED)).expect("the fixture is there") {
        let file = file.expect("a readable folder");
        fs::copy(file.path(), folder.join(file.file_name())).expect("a copy");
    }
    assert_eq!(
        tokens(cache.generate(&hub, "acme/tiny")),
        wanted(&model(SHARDED))
    );
}

#[test]
fn what_is_not_there_is_said_with_the_command_that_gets_it() {
    let cache = Cache::new(".cache/huggingface/hub");
    let other = cache.home.path().join("other");
    let set = [("HF_HOME", other.as_path())];
    let absent = |name: &str, wanted: &str| refused(cache.generate(&set, name), 1, wanted);
    absent("acme/tiny", "`hf download acme/tiny`");
    absent("acme/tiny@v2", "`hf download acme/tiny --revision v2`");
    let folders = format!("{}/hub, {}", other.display(), cache.hub.display());
    absent("acme/tiny", &folders);
    absent("acme/tiny/x", "no acme/tiny/x");
    let commands: [&[&str]; 4] = [
        &["inspect", "acme/tiny"],
        &["tokenize", "-m", "acme/tiny", "-p", "x"],
        &["plan", "-m", "acme/tiny"],
        &["chat", "-m", "acme/tiny"],
    ];
    for command in commands {
        let output = cache.engine(&set).args(command).output();
        refused(
            output.expect("the program starts"),
            1,
            "`hf download acme/tiny`",
        );
    }

    cache.fill("acme/tiny", &model(SHARDED));
    assert_eq!(
        tokens(cache.generate(&set, "acme/tiny")),
        wanted(&model(SHARDED))
    );
    let shard = "model-00003-of-00007.safetensors";
    fs::remove_file(cache.snapshot("acme/tiny").join(shard)).expect("it is there");
    absent("acme/tiny", shard);
    absent("acme/tiny", "incomplete");
    absent("acme/tiny", "`hf download acme/tiny`");
    absent("acme/tiny@v2", "revision v2 but main");

    // A link whose contents did not arrive.
    cache.fill("acme/part", &model(SMALL));
    let config = fs::read_link(cache.snapshot("acme/part").join("config.json"));
    let blob = cache.snapshot("acme/part").join(config.expect("a link"));
    fs::remove_file(blob).expect("it is there");
    absent("acme/part", "config.json is missing");
}

#[test]
fn a_gguf_file_of_a_snapshot_is_picked() {
    let files = tempfile::tempdir().expect("a temporary folder");
    for (file, from) in [("m-F32.gguf", SMALL), ("m-f16.gguf", "qwen2-untied-f32")] {
        let from = model(from);
        gguf::write(&from, &gguf::keys(&from), &files.path().join(file));
    }
    let cache = Cache::new("hub");
    let hub = [("HF_HUB_CACHE", cache.hub.as_path())];
    cache.fill("acme/tiny-GGUF", files.path());
    let own = |file: &str| wanted(&files.path().join(file));
    for (name, file) in [
        ("f32", "m-F32.gguf"),
        ("F16", "m-f16.gguf"),
        ("m-f16.gguf", "m-f16.gguf"),
    ] {
        let name = format!("acme/tiny-GGUF:{name}");
        assert_eq!(tokens(cache.generate(&hub, &name)), own(file), "{name}");
    }
    let absent = |name: &str, wanted: &str| refused(cache.generate(&hub, name), 1, wanted);
    absent("acme/tiny-GGUF", "m-F32.gguf, m-f16.gguf");
    absent("acme/tiny-GGUF:Q4_K_M", "--include \"*Q4_K_M*\"");
    fs::remove_file(cache.snapshot("acme/tiny-GGUF").join("m-F32.gguf")).expect("it is there");
    assert_eq!(
        tokens(cache.generate(&hub, "acme/tiny-GGUF")),
        own("m-f16.gguf")
    );
}
