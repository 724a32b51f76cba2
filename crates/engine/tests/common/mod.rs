//! Starting the program and reading what it says.
#![allow(dead_code, reason = "each test file uses a part of it")]

use serde_json::Value;
use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The oracle: slow, and the same everywhere.
pub const ORACLE: &str = "cpu_reference";

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

pub fn model(name: &str) -> PathBuf {
    fixtures().join("models").join(name)
}

pub fn ferris() -> PathBuf {
    model("ferris-9m")
}

pub fn engine() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_engine"));
    command.env_remove("ESPALIER_FIXTURES").stdin(Stdio::null());
    command
}

pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    engine().args(args).output().expect("the program starts")
}

pub fn run_with_stdin<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, stdin: &[u8]) -> Output {
    let mut child = engine()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // The program may refuse before it reads.
    let _ = child.stdin.take().expect("piped").write_all(stdin);
    child.wait_with_output().expect("the program ends")
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8 on standard output")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8 on standard error")
}

/// Standard output of a run that must succeed.
pub fn ok(output: Output) -> String {
    let status = output.status;
    assert!(status.success(), "{status}: {}", stderr(&output));
    stdout(&output)
}

pub fn json(output: Output) -> Value {
    let text = ok(output);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in {text}"))
}

/// The run fails with this exit code and says why, naming `names`, in at most
/// three lines.
#[track_caller]
pub fn refused(output: Output, code: i32, names: &str) {
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains("error: "), "{text}");
    assert!(text.contains(names), "'{names}' is not in: {text}");
    assert!(text.lines().count() <= 3, "{text}");
    assert!(!text.contains("panicked"), "{text}");
    assert_eq!(stdout(&output), "");
}

/// A copy of a model that may be damaged.
pub fn copy(name: &str) -> TempDir {
    let to = tempfile::tempdir().expect("a temporary folder");
    for entry in std::fs::read_dir(model(name)).expect("the fixture is there") {
        let entry = entry.expect("a readable folder");
        if entry.file_name() != "golden.safetensors" {
            std::fs::copy(entry.path(), to.path().join(entry.file_name())).expect("a copy");
        }
    }
    to
}

/// Rewrites a file of a copied model.
pub fn edit(dir: &TempDir, file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let path = dir.path().join(file);
    let bytes = std::fs::read(&path).expect("the file is there");
    std::fs::write(&path, change(bytes)).expect("writable");
}

/// Rewrites config.json through its parsed form.
pub fn edit_config(dir: &TempDir, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    edit(dir, "config.json", |bytes| {
        let mut config: Value = serde_json::from_slice(&bytes).expect("JSON");
        change(config.as_object_mut().expect("an object"));
        serde_json::to_vec(&config).expect("JSON")
    });
}

/// Rewrites a safetensors header through its parsed form, the data as they are.
pub fn edit_header(dir: &TempDir, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    edit(dir, "model.safetensors", |bytes| {
        let n = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + n]).expect("JSON");
        change(header.as_object_mut().expect("an object"));
        let header = serde_json::to_vec(&header).expect("JSON");
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header);
        out.extend(&bytes[8 + n..]);
        out
    });
}

/// A tensor of a safetensors file as numbers.
pub struct Numbers {
    pub shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Numbers {
    pub fn read(file: &Path, name: &str) -> Self {
        let store = formats::open_file(file).expect("a safetensors file");
        let tensor = store.get(name).expect("the tensor is there");
        assert_eq!(tensor.info.elements() * 4, tensor.bytes().len());
        Numbers {
            shape: tensor.info.shape.clone(),
            bytes: tensor.bytes().to_vec(),
        }
    }

    fn words(&self) -> impl Iterator<Item = [u8; 4]> + '_ {
        self.bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]])
    }

    pub fn f32(&self) -> Vec<f32> {
        self.words().map(f32::from_le_bytes).collect()
    }

    pub fn u32(&self) -> Vec<u32> {
        self.words().map(u32::from_le_bytes).collect()
    }
}

pub fn comma(ids: &[u32]) -> String {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    ids.join(",")
}
