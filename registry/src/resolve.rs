//! The set of registered kernels and exact resolution.

use crate::backend::Backend;
use crate::error::RegistryError;
use crate::kernel::{Kernel, Registration};
use crate::key::{Act, Key, Layer};
use crate::layout::WeightLayout;
use crate::problem::{OperandRole, Problem};
use crate::scheme::SchemeDesc;
use crate::tuned::Tuned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub struct Entry {
    pub key: Key,
    pub kernel: &'static dyn Kernel,
    pub file: &'static str,
}

/// Every kernel linked into the binary, by key.
pub struct Registry {
    entries: BTreeMap<Key, Entry>,
    backends: Vec<&'static Backend>,
}

/// Why a kernel was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// A tuned pick of the device names it.
    Tuned,
    /// The highest rank of several.
    Rank,
    OnlyOne,
    /// The best that takes the weight layout all users of the matrix agreed on.
    Layout,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Tuned => "tuned",
            Why::Rank => "rank",
            Why::OnlyOne => "only one",
            Why::Layout => "layout",
        })
    }
}

#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub backend: &'a str,
    pub problem: &'a Problem,
    pub tuned: &'a Tuned,
    /// Only kernels that compute in this activation format.
    pub act: Option<Act>,
    /// Only this variant.
    pub variant: Option<&'a str>,
}

pub struct Resolved<'a> {
    pub entry: &'a Entry,
    pub why: Why,
}

/// Names that are looked up must not depend on link order.
fn unique<T: 'static>(
    what: &'static str,
    all: impl IntoIterator<Item = &'static T>,
    name: impl Fn(&'static T) -> &'static str,
) -> Result<(), RegistryError> {
    let mut seen = BTreeSet::new();
    match all.into_iter().map(name).find(|n| !seen.insert(*n)) {
        Some(name) => Err(RegistryError::DuplicateName { what, name }),
        None => Ok(()),
    }
}

impl Registry {
    /// Gathers what is linked in. Names both files of a duplicate key.
    pub fn collect() -> Result<Self, RegistryError> {
        Self::from_registrations(inventory::iter::<Registration>())
    }

    pub fn from_registrations<'r>(
        all: impl IntoIterator<Item = &'r Registration>,
    ) -> Result<Self, RegistryError> {
        let mut entries: BTreeMap<Key, Entry> = BTreeMap::new();
        for r in all {
            let spec = r.kernel.spec();
            let key = spec.key();
            let bad = |reason: String| RegistryError::BadKernel {
                key: key.to_string(),
                file: r.file,
                reason,
            };
            spec.pattern.check().map_err(bad)?;
            let stored = spec
                .pattern
                .ops
                .iter()
                .filter(|o| o.kind.stored_operand().is_some())
                .count();
            if spec.quant.len() != 1 && spec.quant.len() != stored {
                return Err(bad(format!(
                    "{} schemes for {stored} stored operands",
                    spec.quant.len()
                )));
            }
            if let Some(old) = entries.get(&key) {
                return Err(RegistryError::DuplicateKey {
                    key: key.to_string(),
                    first: old.file,
                    second: r.file,
                });
            }
            let entry = Entry {
                key: key.clone(),
                kernel: r.kernel,
                file: r.file,
            };
            entries.insert(key, entry);
        }
        unique("weight layout", inventory::iter::<WeightLayout>(), |l| {
            l.name
        })?;
        unique("storage scheme", inventory::iter::<SchemeDesc>(), |s| {
            s.name
        })?;
        Ok(Registry {
            entries,
            backends: Backend::all()?,
        })
    }

    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub fn backends(&self) -> &[&'static Backend] {
        &self.backends
    }

    pub fn backend(&self, name: &str) -> Result<&'static Backend, RegistryError> {
        let found = self.backends.iter().find(|b| b.name == name);
        found.copied().ok_or_else(|| RegistryError::UnknownBackend {
            name: name.into(),
            known: self
                .backends
                .iter()
                .map(|b| b.name)
                .collect::<Vec<_>>()
                .join(", "),
        })
    }

    /// The backend and its declared parents, nearest first.
    pub fn chain(&self, name: &str) -> Result<Vec<&'static Backend>, RegistryError> {
        let mut chain = vec![self.backend(name)?];
        while let Some(parent) = chain[chain.len() - 1].parent {
            let parent = self.backend(parent)?;
            if chain.iter().any(|b| b.name == parent.name) {
                break;
            }
            chain.push(parent);
        }
        Ok(chain)
    }

    /// Composite kernels of a backend chain, in key order.
    pub fn composites(&self, backend: &str) -> Result<Vec<&Entry>, RegistryError> {
        let chain = self.chain(backend)?;
        Ok(self
            .entries
            .values()
            .filter(|e| e.key.layer.is_composite())
            .filter(|e| chain.iter().any(|b| b.name == e.key.backend))
            .collect())
    }

    /// Every kernel that could serve the request, layouts left open, and the
    /// reasons of those that could not.
    pub fn candidates(
        &self,
        request: &Request<'_>,
    ) -> Result<(Vec<Resolved<'_>>, Vec<String>), RegistryError> {
        let problem = request.problem;
        let layer = Layer(problem.ops.iter().map(|o| o.op.kind()).collect());
        let quant = problem.quant();
        let matrix = problem
            .inputs
            .iter()
            .find(|o| o.role == OperandRole::Matrix)
            .map(|o| (o.shape[0], o.shape[1]));
        let picked = request
            .tuned
            .variant(&layer.to_string(), &quant, problem.rows.min, matrix);
        let mut found: Vec<(bool, usize, &Entry)> = Vec::new();
        let mut tried = Vec::new();
        for (depth, backend) in self.chain(request.backend)?.iter().enumerate() {
            for entry in self.entries.values() {
                let key = &entry.key;
                if key.backend != backend.name || key.layer != layer || key.quant != quant {
                    continue;
                }
                let spec = entry.kernel.spec();
                if request.variant.is_some_and(|v| v != key.variant) {
                    continue;
                }
                if let Some(act) = request.act
                    && act != spec.act
                {
                    tried.push(format!("{key} (computes in {}, not {act})", spec.act));
                    continue;
                }
                match entry.kernel.fits(problem) {
                    Ok(()) => found.push((picked == Some(key.variant), depth, entry)),
                    Err(reason) => tried.push(format!("{key} ({reason})")),
                }
            }
        }
        found.sort_by_key(|(picked, depth, e)| {
            (!picked, *depth, -e.kernel.spec().rank, e.key.variant)
        });
        let several = found.len() > 1;
        let resolved = found
            .into_iter()
            .map(|(picked, _, entry)| Resolved {
                entry,
                why: match (picked, several) {
                    (true, _) => Why::Tuned,
                    (false, true) => Why::Rank,
                    (false, false) => Why::OnlyOne,
                },
            })
            .collect();
        Ok((resolved, tried))
    }

    /// The best candidate, or an error that lists what was tried and what other
    /// backends have.
    pub fn resolve(&self, request: &Request<'_>) -> Result<Resolved<'_>, RegistryError> {
        let (found, tried) = self.candidates(request)?;
        match found.into_iter().next() {
            Some(best) => Ok(best),
            None => Err(self.missing(request, tried)),
        }
    }

    pub fn missing(&self, request: &Request<'_>, tried: Vec<String>) -> RegistryError {
        let layer = Layer(request.problem.ops.iter().map(|o| o.op.kind()).collect());
        let quant = request.problem.quant();
        let same_layer = self.entries.keys().filter(|k| k.layer == layer);
        let mut elsewhere: Vec<(bool, String)> = same_layer
            .map(|k| (k.quant != quant, k.to_string()))
            .collect();
        // Those of the same storage scheme are what the user can switch to.
        elsewhere.sort();
        let mut elsewhere: Vec<String> = elsewhere.into_iter().map(|(_, key)| key).collect();
        elsewhere.truncate(8);
        let or_none = |list: Vec<String>| {
            if list.is_empty() {
                "none".into()
            } else {
                list.join(", ")
            }
        };
        RegistryError::NoKernel {
            backend: request.backend.into(),
            layer: layer.to_string(),
            quant,
            tried: or_none(tried),
            elsewhere: or_none(elsewhere),
        }
    }
}
