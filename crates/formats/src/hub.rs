//! Models named as on the Hugging Face Hub, found in the caches that its tools fill.
//!
//! A cache folder holds `models--OWNER--NAME` for each repository: `refs/REVISION` is a file with
//! a commit's hash, `snapshots/HASH` the files of that commit. Nothing is fetched.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, IndexProblem, Result, excerpt};
use crate::gguf::GgufProblem;
use crate::hf::is_gguf;

/// The revision that is meant where none is named.
const MAIN: &str = "main";
/// Folders below a snapshot in which GGUF files are looked for.
const MAX_DEPTH: usize = 3;
/// Files of a snapshot that are looked at.
const MAX_FILES: usize = 10_000;

/// `OWNER/NAME`, `OWNER/NAME@REVISION`, `OWNER/NAME:FILE` or all of it. FILE is the name of a GGUF
/// file or what its name ends in, such as `Q4_K_M`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    /// `OWNER/NAME`.
    pub repository: String,
    /// A branch, a tag or a commit's hash.
    pub revision: Option<String>,
    pub file: Option<String>,
}

impl HubName {
    /// `None` for what cannot be such a name.
    pub fn parse(text: &str) -> Option<Self> {
        let (text, file) = match text.split_once(':') {
            Some((text, file)) => (text, Some(file)),
            None => (text, None),
        };
        let (repository, revision) = match text.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (text, None),
        };
        let (owner, name) = repository.split_once('/')?;
        let path = |text: &str| text.split('/').all(is_word);
        let valid =
            is_word(owner) && is_word(name) && revision.is_none_or(path) && file.is_none_or(path);
        valid.then(|| Self {
            repository: repository.into(),
            revision: revision.map(str::to_string),
            file: file.map(str::to_string),
        })
    }

    fn folder(&self) -> String {
        format!("models--{}", self.repository.replace('/', "--"))
    }

    /// The command that fetches it.
    fn command(&self) -> String {
        let mut command = format!("hf download {}", self.repository);
        if let Some(revision) = &self.revision {
            command += &format!(" --revision {revision}");
        }
        match &self.file {
            Some(file) if is_gguf(Path::new(file)) => command += &format!(" {file}"),
            Some(file) => command += &format!(" --include \"*{file}*\""),
            None => {}
        }
        command
    }
}

impl std::fmt::Display for HubName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match &self.file {
            Some(file) => write!(f, ":{file}"),
            None => Ok(()),
        }
    }
}

/// Letters, digits, `.`, `_` and `-`, as the Hub allows; nothing that means another folder.
fn is_word(word: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=128).contains(&word.len())
        && word.bytes().all(allowed)
        && !word.starts_with(['.', '-'])
        && !word.contains("..")
}

/// The cache folders of this user, in the order in which they are searched, each once.
pub fn caches() -> Vec<PathBuf> {
    caches_from(|name| std::env::var_os(name), std::env::home_dir())
}

fn caches_from(variable: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Vec<PathBuf> {
    let folder = |name: &str, below: &str| {
        let value = variable(name).filter(|v| !v.is_empty())?;
        let path = PathBuf::from(value);
        let path = match (path.strip_prefix("~"), &home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => path,
        };
        Some(match below {
            "" => path,
            below => path.join(below),
        })
    };
    let own = home.as_ref().map(|h| h.join(".cache/huggingface/hub"));
    let mut all: Vec<PathBuf> = Vec::new();
    for path in [
        folder("HF_HUB_CACHE", ""),
        folder("HUGGINGFACE_HUB_CACHE", ""),
        folder("HF_HOME", "hub"),
        folder("XDG_CACHE_HOME", "huggingface/hub"),
        own,
    ] {
        if let Some(path) = path.filter(|p| !all.contains(p)) {
            all.push(path);
        }
    }
    all
}

/// Finds `name` in the first of `caches` that has its repository: a folder in Hugging Face's form,
/// or a GGUF file.
///
/// Errors: [`Error::Hub`] where it is in none, or there is no such revision or file.
pub fn find(name: &HubName, caches: &[PathBuf]) -> Result<PathBuf> {
    let found = caches.iter().map(|c| c.join(name.folder()));
    let Some(repository) = found.into_iter().find(|r| r.is_dir()) else {
        let searched: Vec<_> = caches.iter().map(|c| c.display().to_string()).collect();
        let searched = match searched.as_slice() {
            [] => "no home folder is known".to_string(),
            all => format!("searched {}", all.join(", ")),
        };
        return Err(error(
            name,
            format!("no such file or folder, and not in the Hugging Face cache ({searched})"),
        ));
    };
    let snapshot = snapshot(name, &repository)?;
    pick(name, &snapshot)
}

/// Says how to get what an error says is missing.
pub(crate) fn explain(name: &HubName, failed: Error) -> Error {
    let missing = match &failed {
        Error::Index {
            problem: IndexProblem::MissingShard { shard },
            ..
        } => shard.clone(),
        Error::Gguf {
            problem: GgufProblem::MissingPart { name, .. },
            ..
        } => name.clone(),
        Error::Missing { wanted, path, .. } if *wanted == "model configuration" => path
            .file_name()
            .map_or(String::new(), |n| n.to_string_lossy().into_owned()),
        _ => return failed,
    };
    error(
        name,
        format!("its copy in the Hugging Face cache is incomplete, {missing} is missing"),
    )
}

fn error(name: &HubName, problem: String) -> Error {
    Error::Hub {
        name: name.to_string(),
        problem,
        hint: format!("get it with `{}`", name.command()),
    }
}

/// The folder of a repository that has the files of the revision.
fn snapshot(name: &HubName, repository: &Path) -> Result<PathBuf> {
    let revision = name.revision.as_deref().unwrap_or(MAIN);
    let snapshots = repository.join("snapshots");
    let reference = repository.join("refs").join(revision);
    if let Some(hash) = read_reference(&reference) {
        let path = snapshots.join(&hash);
        if path.is_dir() {
            return Ok(path);
        }
        let problem = format!(
            "its copy in the Hugging Face cache is incomplete, {} is missing",
            path.display()
        );
        return Err(error(name, problem));
    }
    let all = names_in(&snapshots);
    let hash = |s: &&String| **s == revision || is_hash(revision) && s.starts_with(revision);
    let matching: Vec<_> = all.iter().filter(hash).collect();
    if let [one] = matching.as_slice() {
        return Ok(snapshots.join(one));
    }
    let mut have = names_in(&repository.join("refs"));
    have.extend(all);
    have.truncate(8);
    let have = match have.as_slice() {
        [] => "nothing".to_string(),
        have => excerpt(&have.join(", "), 200),
    };
    Err(error(
        name,
        format!("the Hugging Face cache has not its revision {revision} but {have}"),
    ))
}

/// The hash in a file of `refs`.
fn read_reference(path: &Path) -> Option<String> {
    let bytes = crate::config::read_limited(path, "a reference", 1024).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let hash = text.trim();
    is_word(hash).then(|| hash.to_string())
}

/// Whether a text can be the start of a commit's hash, and is long enough for one.
fn is_hash(text: &str) -> bool {
    (7..=40).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What a snapshot holds: the file that is named, or the one model that is there.
fn pick(name: &HubName, snapshot: &Path) -> Result<PathBuf> {
    let files = gguf_files(snapshot);
    if name.file.is_none() && (has_safetensors(snapshot) || files.is_empty()) {
        return whole(name, snapshot);
    }
    let wanted = name.file.as_deref().unwrap_or_default();
    let fitting: Vec<_> = files.iter().filter(|f| fits(f, wanted)).collect();
    match fitting.as_slice() {
        [one] => Ok(snapshot.join(one)),
        [] => {
            let have = listed(files.iter());
            Err(error(
                name,
                format!(
                    "its copy in the Hugging Face cache has no GGUF file `{wanted}`, only {have}"
                ),
            ))
        }
        several => Err(Error::Hub {
            name: name.to_string(),
            problem: format!(
                "several GGUF files fit: {}",
                listed(several.iter().copied())
            ),
            hint: format!("name one, as in {}:NAME", name.repository),
        }),
    }
}

/// A snapshot in Hugging Face's form, if it has any weights at all.
fn whole(name: &HubName, snapshot: &Path) -> Result<PathBuf> {
    let weights = [
        ".safetensors",
        ".safetensors.index.json",
        ".bin",
        ".pt",
        ".pth",
    ];
    let files = names_in(snapshot);
    match files.iter().any(|f| weights.iter().any(|w| f.ends_with(w))) {
        true => Ok(snapshot.to_path_buf()),
        false => Err(error(
            name,
            format!(
                "its copy in the Hugging Face cache is incomplete, {} has no weights",
                snapshot.display()
            ),
        )),
    }
}

fn has_safetensors(snapshot: &Path) -> bool {
    let files = names_in(snapshot);
    files.iter().any(|f| f.contains(".safetensors"))
}

fn listed<'a>(files: impl ExactSizeIterator<Item = &'a String>) -> String {
    const SHOWN: usize = 12;
    let more = files.len().saturating_sub(SHOWN);
    let files: Vec<&str> = files.take(SHOWN).map(String::as_str).collect();
    match (files.as_slice(), more) {
        ([], _) => "none".into(),
        (files, 0) => excerpt(&files.join(", "), 400),
        (files, more) => format!("{} and {more} more", excerpt(&files.join(", "), 400)),
    }
}

/// Models among the GGUF files of a snapshot, by their paths in it: of one in parts the first,
/// and no image projectors.
fn gguf_files(snapshot: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![(PathBuf::new(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for name in names_in(&snapshot.join(&folder)) {
            let path = folder.join(&name);
            if snapshot.join(&path).is_dir() {
                if depth < MAX_DEPTH {
                    folders.push((path, depth + 1));
                }
            } else if is_gguf(&path) && !name.to_lowercase().starts_with("mmproj") {
                let text = path.to_string_lossy().replace('\\', "/");
                if part_of(&text).is_none_or(|part| part == 1) && found.len() < MAX_FILES {
                    found.push(text);
                }
            }
        }
    }
    found.sort();
    found
}

/// Whether a file is the one that `wanted` names: all of it, or how its stem ends.
fn fits(file: &str, wanted: &str) -> bool {
    let (file, wanted) = (file.to_lowercase(), wanted.to_lowercase());
    let mut stem = &file[..file.len() - ".gguf".len()];
    if part_of(&file).is_some() {
        stem = &stem[..stem.len() - PART.len()];
    }
    let name = file.rsplit('/').next();
    if wanted.is_empty() || file == wanted || name == Some(&wanted) {
        return true;
    }
    let before = stem.strip_suffix(wanted.as_str());
    before.is_some_and(|b| b.is_empty() || b.ends_with(['-', '.', '_', '/']))
}

/// How the names of parts end, before `.gguf`.
const PART: &str = "-00001-of-00001";

/// Which part, counted from 1, a file is by its name.
fn part_of(file: &str) -> Option<usize> {
    let stem = file.get(..file.len().checked_sub(".gguf".len())?)?;
    let ending = stem.get(stem.len().checked_sub(PART.len())?..)?;
    let (part, count) = ending.strip_prefix('-')?.split_once("-of-")?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    (digits(part) && digits(count)).then(|| part.parse().ok())?
}

/// The names in a folder that are UTF-8, in order; none where it cannot be read.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<_> = names.take(MAX_FILES).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests;
