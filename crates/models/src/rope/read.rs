//! Rotary settings of configurations.

use std::fmt;

use formats::ConfigView;

use super::{DEFAULT_THETA, Rope, RopeScaling};
use crate::error::{ModelError, Result, clip};
use crate::guard::is_null;

impl Rope {
    /// Reads the rotary setting of a model whose heads have `head_dim` elements: `rope_parameters`
    /// as transformers 5 writes it, or `rope_theta` and `rope_scaling` as older files have it.
    ///
    /// Errors: fields out of range, scalings that are not computed here, settings that differ
    /// between layer types, a rotation of a part of each head in families that rotate all of it.
    pub(crate) fn read(
        config: &ConfigView<'_>,
        head_dim: usize,
        context_length: usize,
        defaults: &RopeDefaults,
    ) -> Result<Self> {
        let nested = settings(config)?;
        let theta = read_theta(config, nested.as_ref(), "rope_theta", defaults.theta)?;
        let rotary_dim = read_rotary_dim(config, nested.as_ref(), head_dim, defaults.partial)?;
        let original = Original {
            beside: true,
            default: defaults.original_context,
            context_length,
        };
        let nested = nested.as_ref();
        Self::read_in(
            config,
            nested,
            theta,
            rotary_dim,
            original,
            defaults.long_names,
        )
    }

    /// Reads the setting that one type of layers has (Gemma 3): an object of its own within
    /// `rope_parameters`, or `theta_field` and, where `scaled`, `rope_scaling` of older files.
    pub(crate) fn read_of_layers(
        config: &ConfigView<'_>,
        kind: LayerRope,
        head_dim: usize,
        context_length: usize,
    ) -> Result<Self> {
        let mut nested = None;
        if let Some(all) = config.opt_object("rope_parameters")? {
            let map = config.get("rope_parameters").and_then(|v| v.as_object());
            let entries = map.into_iter().flatten();
            if let Some((key, value)) = entries
                .into_iter()
                .find(|(_, v)| !v.is_object() && !v.is_null())
            {
                return Err(ModelError::unsupported(
                    config,
                    format!("rope_parameters.{}", clip(key)),
                    value.to_string(),
                    "this family has one rotary setting for each type of layers; wanted full_attention and sliding_attention, an object each",
                ));
            }
            nested = all.opt_object(kind.field)?.map(|view| Nested {
                field: kind.nested,
                view,
            });
        }
        if kind.scaled
            && let Some(view) = config.opt_object("rope_scaling")?
        {
            // The reference lets the older field win entry by entry.
            let old = config.get("rope_scaling").and_then(|v| v.as_object());
            let differs = |inner: &ConfigView<'_>| {
                let mut entries = old.into_iter().flatten();
                entries.any(|(key, value)| inner.get(key) != Some(value))
            };
            if nested
                .as_ref()
                .is_some_and(|n: &Nested<'_>| differs(&n.view))
            {
                return Err(ModelError::inconsistent(
                    config.file(),
                    format!(
                        "`rope_scaling` and `{}` are both given and differ; keep the right one",
                        kind.nested
                    ),
                ));
            }
            nested.get_or_insert(Nested {
                field: "rope_scaling",
                view,
            });
        }
        let theta = read_theta(config, nested.as_ref(), kind.theta_field, kind.theta)?;
        let rotary_dim = read_rotary_dim(config, nested.as_ref(), head_dim, None)?;
        let original = Original {
            beside: false,
            default: None,
            context_length,
        };
        Self::read_in(config, nested.as_ref(), theta, rotary_dim, original, &[])
    }

    fn read_in(
        config: &ConfigView<'_>,
        nested: Option<&Nested<'_>>,
        theta: f64,
        rotary_dim: usize,
        original: Original,
        long_names: &[&str],
    ) -> Result<Self> {
        let not_finite = |what: &dyn fmt::Display| {
            ModelError::inconsistent(
                config.file(),
                format!(
                    "the rotary settings ({what}, theta {theta}) give frequencies that are not finite; check them"
                ),
            )
        };
        let Some(nested) = nested else {
            let scaling = RopeScaling::Default;
            return Rope::new(theta, rotary_dim, scaling).ok_or_else(|| not_finite(&scaling));
        };
        let (_, kind) = nested.kind()?;
        if kind == "longrope" || long_names.contains(&kind) {
            let long = read_long(config, nested, theta, rotary_dim, original)?;
            return long.ok_or_else(|| not_finite(&"longrope"));
        }
        let scaling = read_scaling(config, nested, original)?;
        Rope::new(theta, rotary_dim, scaling).ok_or_else(|| not_finite(&scaling))
    }
}

/// What absent fields mean, and which part of a head rotates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RopeDefaults {
    pub theta: f64,
    /// The share of each head that rotates; `None` in families that rotate whole heads, whatever
    /// the configuration says.
    pub partial: Option<f64>,
    /// `original_max_position_embeddings` where the configuration gives none beside the rotary
    /// fields, whatever these say.
    pub original_context: Option<usize>,
    /// What else `longrope` is called.
    pub long_names: &'static [&'static str],
}

impl RopeDefaults {
    /// Whole heads.
    pub(crate) const WHOLE: RopeDefaults = RopeDefaults {
        theta: DEFAULT_THETA,
        partial: None,
        original_context: None,
        long_names: &[],
    };
}

/// The rotary setting of one type of layers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerRope {
    /// Its object within `rope_parameters`.
    pub field: &'static str,
    /// The same with its path.
    pub nested: &'static str,
    /// Where older files have its base.
    pub theta_field: &'static str,
    pub theta: f64,
    /// `rope_scaling` of older files applies to it.
    pub scaled: bool,
}

/// Where the context that a model was first trained on is read from.
#[derive(Clone, Copy, Debug)]
struct Original {
    /// Also beside the rotary fields; that one is meant before theirs.
    beside: bool,
    /// Stands for the field beside them.
    default: Option<usize>,
    /// Context of the model.
    context_length: usize,
}

impl Original {
    fn read(&self, config: &ConfigView<'_>, view: &ConfigView<'_>) -> Result<usize> {
        const FIELD: &str = "original_max_position_embeddings";
        let inner = view.opt_usize(FIELD)?;
        let beside = match self.beside {
            true => config.opt_usize(FIELD)?,
            false => None,
        };
        let found = beside.or(self.default).or(inner);
        Ok(found.unwrap_or(self.context_length))
    }
}

/// The object that holds the rotary fields, and what the configuration calls it.
struct Nested<'a> {
    field: &'static str,
    view: ConfigView<'a>,
}

impl<'a> Nested<'a> {
    fn name(&self, field: &str) -> String {
        format!("{}.{field}", self.field)
    }

    /// The field that says how the rotation is scaled, and what it says.
    fn kind(&self) -> Result<(&'static str, &'a str)> {
        Ok(match self.view.opt_str("rope_type")? {
            Some(kind) => ("rope_type", kind),
            None => ("type", self.view.opt_str("type")?.unwrap_or("default")),
        })
    }
}

/// Elements of a head that rotate. Where a family rotates whole heads, the reference code ignores
/// `partial_rotary_factor` or fails on it, depending on the scaling, so that there is no right
/// answer to compute for another part.
fn read_rotary_dim(
    config: &ConfigView<'_>,
    nested: Option<&Nested<'_>>,
    head_dim: usize,
    default: Option<f64>,
) -> Result<usize> {
    const FIELD: &str = "partial_rotary_factor";
    let inner = match nested {
        Some(nested) => nested.view.opt_f64(FIELD)?,
        None => None,
    };
    let outer = config.opt_f64(FIELD)?;
    let Some(default) = default else {
        let given = [
            (outer, FIELD.to_string()),
            (inner, nested.map_or(String::new(), |n| n.name(FIELD))),
        ];
        return match given
            .into_iter()
            .find(|(part, _)| part.is_some_and(|p| p != 1.0))
        {
            Some((part, name)) => Err(ModelError::unsupported(
                config,
                name,
                part.unwrap_or_default().to_string(),
                "this family rotates whole heads; wanted 1",
            )),
            None => Ok(head_dim),
        };
    };
    let part = inner.or(outer).unwrap_or(default);
    let dim = (head_dim as f64 * part) as usize;
    if !(part > 0.0 && part <= 1.0) || dim == 0 || !dim.is_multiple_of(2) {
        return Err(ModelError::unsupported(
            config,
            match (inner, nested) {
                (Some(_), Some(nested)) => nested.name(FIELD),
                _ => FIELD.to_string(),
            },
            part.to_string(),
            format!(
                "of heads of {head_dim} elements it must rotate an even number; wanted more than 0 and up to 1"
            ),
        ));
    }
    Ok(dim)
}

fn settings<'a>(config: &ConfigView<'a>) -> Result<Option<Nested<'a>>> {
    let mut found: Option<Nested<'a>> = None;
    for field in ["rope_scaling", "rope_parameters"] {
        let Some(view) = config.opt_object(field)? else {
            continue;
        };
        let Some(map) = config.get(field).and_then(|v| v.as_object()) else {
            continue;
        };
        if map.is_empty() {
            continue;
        }
        if let Some((key, value)) = map.iter().find(|(_, v)| v.is_object()) {
            return Err(ModelError::unsupported(
                config,
                format!("{field}.{}", clip(key)),
                value.to_string(),
                "all layers of this family share one rotary setting",
            ));
        }
        match &found {
            Some(first) if config.get(first.field) != config.get(field) => {
                return Err(ModelError::inconsistent(
                    config.file(),
                    format!(
                        "`{}` and `{field}` are both given and differ; keep the right one",
                        first.field
                    ),
                ));
            }
            Some(_) => {}
            None => found = Some(Nested { field, view }),
        }
    }
    Ok(found)
}

fn read_theta(
    config: &ConfigView<'_>,
    nested: Option<&Nested<'_>>,
    field: &str,
    default: f64,
) -> Result<f64> {
    const WANTED: &str = "a number above 1";
    let fits = |theta: &f64| *theta > 1.0 && (*theta as f32).is_finite();
    let inner = nested.map(|n| &n.view).filter(|v| v.has("rope_theta"));
    let (view, field) = match inner {
        Some(view) => (view, "rope_theta"),
        None => (config, field),
    };
    match view.opt_f64(field)? {
        Some(theta) if fits(&theta) => Ok(theta),
        Some(_) => Err(view.invalid(field, WANTED).into()),
        None if is_null(config, field) => Err(config.invalid(field, WANTED).into()),
        None => Ok(default),
    }
}

fn read_scaling(
    config: &ConfigView<'_>,
    nested: &Nested<'_>,
    original: Original,
) -> Result<RopeScaling> {
    let view = &nested.view;
    let (spelling, kind) = nested.kind()?;
    if view.has("llama_4_scaling_beta") {
        return Err(ModelError::unsupported(
            config,
            nested.name("llama_4_scaling_beta"),
            view.get("llama_4_scaling_beta")
                .map_or(String::new(), |v| v.to_string()),
            "queries scaled by their position are not computed",
        ));
    }
    let original_context = || original.read(config, view);
    match kind {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear {
            factor: view.positive_f64("factor")?,
        }),
        "llama3" => {
            let low_freq_factor = view.positive_f64("low_freq_factor")?;
            let high_freq_factor = view.positive_f64("high_freq_factor")?;
            if high_freq_factor <= low_freq_factor {
                let wanted = format!("more than low_freq_factor, which is {low_freq_factor}");
                return Err(view.invalid("high_freq_factor", &wanted).into());
            }
            Ok(RopeScaling::Llama3 {
                factor: view.positive_f64("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_context: original_context()?,
            })
        }
        "yarn" => {
            let factor = view.positive_f64("factor")?;
            // 0 stands for the default, as in the reference.
            let beta = |field, default| -> Result<f64> {
                let given = view.opt_f64_in(field, 0.0..=1e6)?;
                Ok(given.filter(|x| *x != 0.0).unwrap_or(default))
            };
            Ok(RopeScaling::Yarn {
                factor,
                beta_fast: beta("beta_fast", 32.0)?,
                beta_slow: beta("beta_slow", 1.0)?,
                original_context: original_context()?,
                truncate: view.opt_bool("truncate")?.unwrap_or(true),
                attention_factor: yarn_attention_factor(view, factor)?,
            })
        }
        other => Err(ModelError::unsupported(
            config,
            nested.name(spelling),
            format!("\"{}\"", clip(other)),
            "known: default, linear, llama3, yarn, longrope",
        )),
    }
}

/// `None` when a frequency is not finite.
fn read_long(
    config: &ConfigView<'_>,
    nested: &Nested<'_>,
    theta: f64,
    rotary_dim: usize,
    original: Original,
) -> Result<Option<Rope>> {
    let view = &nested.view;
    let original_context = original.read(config, view)?;
    let divisors = |field: &str| -> Result<Vec<f32>> {
        let wanted = format!("{} numbers above 0, one for each pair", rotary_dim / 2);
        match view.opt_f64s(field)? {
            Some(list) if list.len() == rotary_dim / 2 && list.iter().all(|d| *d > 0.0) => {
                Ok(list.into_iter().map(|d| d as f32).collect())
            }
            _ => Err(view.invalid(field, &wanted).into()),
        }
    };
    let (short, long) = (divisors("short_factor")?, divisors("long_factor")?);
    let factor = match view.opt_positive_f64("factor")? {
        Some(factor) => factor,
        None => original.context_length as f64 / original_context as f64,
    };
    let attention_factor = match view.opt_positive_f64("attention_factor")? {
        Some(given) => given,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / (original_context as f64).ln()).sqrt(),
    };
    Ok(Rope::long(
        theta,
        rotary_dim,
        (&short, &long),
        original_context,
        attention_factor,
    ))
}

fn yarn_attention_factor(view: &ConfigView<'_>, factor: f64) -> Result<f64> {
    if let Some(given) = view.opt_positive_f64("attention_factor")? {
        return Ok(given);
    }
    let scale = |mscale: f64| match factor > 1.0 {
        true => 0.1 * mscale * factor.ln() + 1.0,
        false => 1.0,
    };
    let mscale = view.opt_f64_in("mscale", 0.0..=1e6)?.filter(|m| *m != 0.0);
    let all_dim = view
        .opt_f64_in("mscale_all_dim", 0.0..=1e6)?
        .filter(|m| *m != 0.0);
    Ok(match (mscale, all_dim) {
        (Some(mscale), Some(all_dim)) => scale(mscale) / scale(all_dim),
        _ => scale(1.0),
    })
}
