//! One file, or parts named `<name>-00001-of-00003.gguf` and so on; the first holds the metadata.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{GgufFile, GgufHeader, GgufProblem, Metadata, parse_gguf};
use crate::error::{Error, Result, excerpt};
use crate::tensors::{MappedFile, Place, TensorInfo, TensorStore};

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

pub(super) fn open(path: &Path) -> Result<GgufFile> {
    let mut first = Part::open(path)?;
    let split = first.split()?;
    let mut names = None;
    if split.count > 1 {
        let naming = Naming::of(path, split)?;
        if split.number != 0 {
            first = naming.open(0)?;
        }
        names = Some(naming);
    }
    let Part { file, header } = first;
    let path = file.path().to_path_buf();

    let mut joined = Joined::default();
    joined.add(Arc::clone(&file), header.tensors)?;
    if let Some(naming) = names {
        for number in 1..split.count {
            let part = naming.open(number)?;
            joined.add(part.file, part.header.tensors)?;
        }
    }
    let found = joined.tensors.len();
    let metadata = Metadata::new(file, header.keys, found);
    let wanted = metadata.view().opt_usize_in(TENSORS, 0..=usize::MAX)?;
    if let Some(wanted) = wanted.filter(|&wanted| split.count > 1 && wanted != found) {
        let problem = GgufProblem::PartTensors { wanted, found };
        return Err(Error::gguf(&path, problem));
    }
    Ok(GgufFile {
        path,
        version: header.version,
        metadata,
        tensors: TensorStore::new(joined.files, joined.tensors),
    })
}

struct Part {
    file: Arc<MappedFile>,
    header: GgufHeader,
}

/// Which part a file says it is, counted from 0.
#[derive(Clone, Copy, PartialEq)]
struct Split {
    number: usize,
    count: usize,
}

impl Part {
    fn open(path: &Path) -> Result<Self> {
        // An empty file cannot be mapped; it is reported like any other that is too short.
        if std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == 0) {
            let problem = GgufProblem::Truncated {
                what: "the first four bytes".into(),
                at: 0,
                needed: 4,
                available: 0,
            };
            return Err(Error::gguf(path, problem));
        }
        let file = MappedFile::open(path)?;
        let header = parse_gguf(file.bytes()).map_err(|problem| Error::gguf(path, problem))?;
        Ok(Self {
            file: Arc::new(file),
            header,
        })
    }

    fn split(&self) -> Result<Split> {
        let metadata = Metadata::new(
            Arc::clone(&self.file),
            self.header.keys.clone(),
            self.header.tensors.len(),
        );
        let view = metadata.view();
        let most = usize::from(u16::MAX);
        let count = view.opt_usize_in(COUNT, 0..=most)?.unwrap_or(1).max(1);
        let number = view.opt_usize_in(NUMBER, 0..=count - 1)?.unwrap_or(0);
        Ok(Split { number, count })
    }
}

/// How the parts of one file are called.
struct Naming {
    folder: PathBuf,
    stem: String,
    count: usize,
}

impl Naming {
    /// Derives the names of all parts from that of one.
    fn of(path: &Path, split: Split) -> Result<Self> {
        let ending = ending(split.number, split.count);
        let name = path.file_name().and_then(|n| n.to_str());
        let Some(stem) = name.and_then(|n| n.strip_suffix(&ending)) else {
            let problem = GgufProblem::PartName {
                part: split.number + 1,
                count: split.count,
                wanted: ending,
            };
            return Err(Error::gguf(path, problem));
        };
        Ok(Self {
            folder: path.parent().map_or(PathBuf::new(), Path::to_path_buf),
            stem: stem.to_string(),
            count: split.count,
        })
    }

    fn open(&self, number: usize) -> Result<Part> {
        let name = format!("{}{}", self.stem, ending(number, self.count));
        let path = self.folder.join(&name);
        if !path.exists() {
            let problem = GgufProblem::MissingPart {
                part: number + 1,
                count: self.count,
                name: excerpt(&name, 120),
            };
            return Err(Error::gguf(&path, problem));
        }
        let part = Part::open(&path)?;
        let found = part.split()?;
        let wanted = Split {
            number,
            count: self.count,
        };
        if found != wanted {
            let shown = |s: Split| format!("{} of {}", s.number + 1, s.count);
            let problem = GgufProblem::WrongPart {
                wanted: shown(wanted),
                found: shown(found),
            };
            return Err(Error::gguf(&path, problem));
        }
        Ok(part)
    }
}

fn ending(number: usize, count: usize) -> String {
    format!("-{:05}-of-{count:05}.gguf", number + 1)
}

#[derive(Default)]
struct Joined {
    files: Vec<Arc<MappedFile>>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Joined {
    fn add(
        &mut self,
        file: Arc<MappedFile>,
        tensors: BTreeMap<String, super::GgufTensor>,
    ) -> Result<()> {
        let index = self.files.len();
        for (name, tensor) in tensors {
            let info = TensorInfo {
                name: name.clone(),
                shape: tensor.shape,
                stored: tensor.stored,
                bytes: tensor.bytes,
                place: Some(Place {
                    file: index,
                    offset: tensor.offset,
                }),
            };
            if self.tensors.contains_key(&name) {
                let problem = GgufProblem::DuplicateTensor(excerpt(&name, 120));
                return Err(Error::gguf(file.path(), problem));
            }
            self.tensors.insert(name, info);
        }
        self.files.push(file);
        Ok(())
    }
}
