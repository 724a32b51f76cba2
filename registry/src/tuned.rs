//! Tuned picks: the variants that were measured as fastest on a device.
//!
//! `tuned/<backend>-<device>.toml` holds `[[pick]]` tables; see `docs/KERNELS.md`. The
//! files of this folder are built into the binary.

use crate::error::RegistryError;
use serde::Deserialize;

include!(concat!(env!("OUT_DIR"), "/tuned_files.rs"));

/// One measured choice. Absent conditions match everything.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pick {
    pub layer: String,
    pub quant: Option<String>,
    /// Bucket: the least rows of the plan it holds for.
    pub rows: Option<usize>,
    /// Columns and rows of the first matrix.
    pub k: Option<usize>,
    pub n: Option<usize>,
    /// The variant to run; `none` keeps a composite from being used.
    pub variant: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// Variants are those of a backend: one device may have several.
    #[serde(default)]
    pub backend: String,
    /// Device name as the driver spells it.
    #[serde(default)]
    pub device: String,
    #[serde(default)]
    pub pick: Vec<Pick>,
}

impl Tuned {
    pub fn parse(text: &str) -> Result<Self, RegistryError> {
        toml::from_str(text).map_err(|e| RegistryError::Tuned {
            device: "file".into(),
            reason: e.to_string(),
        })
    }

    /// The picks of a backend for a device, none if it was never tuned.
    pub fn for_device(backend: &str, device: &str) -> Result<Self, RegistryError> {
        for (file, text) in TUNED_FILES {
            let tuned: Tuned = toml::from_str(text).map_err(|e| RegistryError::Tuned {
                device: (*file).into(),
                reason: e.to_string(),
            })?;
            if tuned.backend == backend && tuned.device == device {
                return Ok(tuned);
            }
        }
        Ok(Tuned {
            backend: backend.into(),
            device: device.into(),
            pick: Vec::new(),
        })
    }

    /// The variant picked for a use, most specific pick first.
    pub fn variant(
        &self,
        layer: &str,
        quant: &str,
        rows: usize,
        matrix: Option<(usize, usize)>,
    ) -> Option<&str> {
        let fits = |p: &&Pick| {
            p.layer == layer
                && p.quant.as_deref().is_none_or(|q| q == quant)
                && p.rows.is_none_or(|r| r == rows)
                && p.n.is_none_or(|n| matrix.is_some_and(|m| m.0 == n))
                && p.k.is_none_or(|k| matrix.is_some_and(|m| m.1 == k))
        };
        let weight = |p: &&Pick| {
            [
                p.quant.is_some(),
                p.rows.is_some(),
                p.n.is_some(),
                p.k.is_some(),
            ]
            .iter()
            .filter(|c| **c)
            .count()
        };
        let best = self.pick.iter().filter(fits).max_by_key(weight)?;
        Some(&best.variant)
    }
}
