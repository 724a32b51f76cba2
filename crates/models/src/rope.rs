//! Rotary position embedding: from the configuration to inverse frequencies.
//!
//! Frequencies are computed once, on the host, in f32 and in the order of operations that
//! transformers uses, so that a graph's constant equals the reference's up to the last bit of
//! `pow`. Position p rotates pair i by p·`inv_freq[i]`.

use std::f64::consts::PI;
use std::fmt;

use formats::ConfigView;

use crate::error::{ModelError, Result, clip};
use crate::guard::is_null;

/// The base of the frequencies when the configuration gives none.
pub(crate) const DEFAULT_THETA: f64 = 10_000.0;

/// How frequencies are stretched beyond the context that a model was first trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// Every frequency divided by `factor`.
    Linear { factor: f64 },
    /// Low frequencies divided by `factor`, high ones kept, those between blended by wavelength.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context: usize,
    },
    /// YaRN: blended by dimension between the rotations counts `beta_fast` and `beta_slow`.
    Yarn {
        factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        original_context: usize,
        /// Whether the blend's ends are rounded outwards to whole dimensions.
        truncate: bool,
        /// What cosines and sines are multiplied by.
        attention_factor: f64,
    },
    /// Each frequency divided by a number of its own that the weights bring along.
    Divided,
}

/// One rotary setting of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Leading elements of each head that rotate; even.
    pub rotary_dim: usize,
    pub scaling: RopeScaling,
    /// `[rotary_dim / 2]`, radians per position.
    pub inv_freq: Vec<f32>,
    /// What cosines and sines are multiplied by.
    pub attention_factor: f32,
}

impl Rope {
    /// Plain frequencies, each divided by its own number of `divisors` (`rotary_dim / 2` of them).
    /// `None` when a result is not finite.
    pub fn divided(theta: f64, rotary_dim: usize, divisors: &[f32]) -> Option<Self> {
        let mut rope = Self::new(theta, rotary_dim, RopeScaling::Divided)?;
        for (f, divisor) in rope.inv_freq.iter_mut().zip(divisors) {
            *f /= divisor;
        }
        rope.inv_freq.iter().all(|f| f.is_finite()).then_some(rope)
    }

    /// Computes the frequencies (of [`RopeScaling::Divided`], before the division). `None` when
    /// one of them is not finite.
    pub fn new(theta: f64, rotary_dim: usize, scaling: RopeScaling) -> Option<Self> {
        let pos_freqs = position_frequencies(theta, rotary_dim);
        let plain = pos_freqs.iter().map(|f| 1.0 / f);
        let (inv_freq, attention_factor): (Vec<f32>, f64) = match scaling {
            RopeScaling::Default | RopeScaling::Divided => (plain.collect(), 1.0),
            RopeScaling::Linear { factor } => (plain.map(|f| f / factor as f32).collect(), 1.0),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => {
                let scale = |f| {
                    llama3_frequency(
                        f,
                        factor,
                        low_freq_factor,
                        high_freq_factor,
                        original_context,
                    )
                };
                (plain.map(scale).collect(), 1.0)
            }
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_context,
                truncate,
                attention_factor,
            } => {
                let dim_of = |turns| correction_dim(turns, theta, rotary_dim, original_context);
                let (mut low, mut high) = (dim_of(beta_fast), dim_of(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                low = low.max(0.0);
                high = high.min(rotary_dim as f64 - 1.0);
                if low == high {
                    high += 0.001;
                }
                let blend = |(i, f): (usize, &f32)| {
                    let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                    let keep = 1.0 - ramp;
                    let stretched = 1.0 / (factor as f32 * f);
                    stretched * (1.0 - keep) + (1.0 / f) * keep
                };
                let freqs = pos_freqs.iter().enumerate().map(blend).collect();
                (freqs, attention_factor)
            }
        };
        let rope = Rope {
            theta,
            rotary_dim,
            scaling,
            inv_freq,
            attention_factor: attention_factor as f32,
        };
        let finite =
            rope.inv_freq.iter().all(|f| f.is_finite()) && rope.attention_factor.is_finite();
        finite.then_some(rope)
    }

    /// Reads the rotary setting of a model whose heads have `head_dim` elements: `rope_parameters`
    /// as transformers 5 writes it, or `rope_theta` and `rope_scaling` as older files have it.
    ///
    /// Errors: fields out of range, scalings that are not computed here, settings that differ
    /// between layer types, a partial rotation.
    pub fn read(config: &ConfigView<'_>, head_dim: usize, context_length: usize) -> Result<Self> {
        let nested = settings(config)?;
        let theta = read_theta(config, nested.as_ref())?;
        refuse_partial(config, config, "partial_rotary_factor")?;
        if let Some(nested) = &nested {
            let name = nested.name("partial_rotary_factor");
            refuse_partial(config, &nested.view, &name)?;
        }
        let scaling = match &nested {
            Some(nested) => read_scaling(config, nested, context_length)?,
            None => RopeScaling::Default,
        };
        Rope::new(theta, head_dim, scaling).ok_or_else(|| {
            ModelError::inconsistent(
                config.file(),
                format!("the rotary settings ({scaling}, theta {theta}) give frequencies that are not finite; check them"),
            )
        })
    }
}

impl fmt::Display for Rope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, theta {}, {} dims",
            self.scaling, self.theta, self.rotary_dim
        )
    }
}

impl fmt::Display for RopeScaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RopeScaling::Default => f.write_str("default"),
            RopeScaling::Divided => f.write_str("divided as the weights say"),
            RopeScaling::Linear { factor } => write!(f, "linear x{factor}"),
            RopeScaling::Llama3 {
                factor,
                original_context,
                ..
            } => {
                write!(f, "llama3 x{factor} from {original_context}")
            }
            RopeScaling::Yarn {
                factor,
                original_context,
                ..
            } => {
                write!(f, "yarn x{factor} from {original_context}")
            }
        }
    }
}

/// theta^(2i/dim) for each pair i. The exponent is rounded to f32 before `pow`, as in the
/// reference; `pow` itself is rounded once, from f64.
fn position_frequencies(theta: f64, dim: usize) -> Vec<f32> {
    let base = f64::from(theta as f32);
    (0..dim / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / dim as f32;
            base.powf(f64::from(exponent)) as f32
        })
        .collect()
}

fn llama3_frequency(freq: f32, factor: f64, low: f64, high: f64, original_context: usize) -> f32 {
    let context = original_context as f64;
    let (factor, wavelength) = (factor as f32, (2.0 * PI) as f32 / freq);
    if wavelength > (context / low) as f32 {
        freq / factor
    } else if wavelength < (context / high) as f32 {
        freq
    } else {
        let smooth = (context as f32 / wavelength - low as f32) / (high - low) as f32;
        (1.0 - smooth) * freq / factor + smooth * freq
    }
}

/// The (fractional) dimension whose frequency turns `turns` times over the original context.
fn correction_dim(turns: f64, theta: f64, dim: usize, original_context: usize) -> f64 {
    let ratio = original_context as f64 / (turns * 2.0 * PI);
    dim as f64 * ratio.ln() / (2.0 * theta.ln())
}

/// The object that holds the rotary fields, and what the configuration calls it.
struct Nested<'a> {
    field: &'static str,
    view: ConfigView<'a>,
}

impl Nested<'_> {
    fn name(&self, field: &str) -> String {
        format!("{}.{field}", self.field)
    }
}

/// The reference code of these families ignores `partial_rotary_factor` or fails on it, depending
/// on the scaling, so there is no right answer to compute.
fn refuse_partial(config: &ConfigView<'_>, view: &ConfigView<'_>, name: &str) -> Result<()> {
    match view.opt_f64("partial_rotary_factor")? {
        Some(part) if part != 1.0 => Err(ModelError::unsupported(
            config,
            name,
            part.to_string(),
            "this family rotates whole heads; wanted 1",
        )),
        _ => Ok(()),
    }
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

fn read_theta(config: &ConfigView<'_>, nested: Option<&Nested<'_>>) -> Result<f64> {
    const WANTED: &str = "a number above 1";
    let fits = |theta: &f64| *theta > 1.0 && (*theta as f32).is_finite();
    let inner = nested.map(|n| &n.view).filter(|v| v.has("rope_theta"));
    let view = inner.unwrap_or(config);
    match view.opt_f64("rope_theta")? {
        Some(theta) if fits(&theta) => Ok(theta),
        Some(_) => Err(view.invalid("rope_theta", WANTED).into()),
        None if is_null(config, "rope_theta") => Err(config.invalid("rope_theta", WANTED).into()),
        None => Ok(DEFAULT_THETA),
    }
}

fn read_scaling(
    config: &ConfigView<'_>,
    nested: &Nested<'_>,
    context_length: usize,
) -> Result<RopeScaling> {
    let view = &nested.view;
    let (spelling, kind) = match view.opt_str("rope_type")? {
        Some(kind) => ("rope_type", kind),
        None => ("type", view.opt_str("type")?.unwrap_or("default")),
    };
    if view.has("llama_4_scaling_beta") {
        return Err(ModelError::unsupported(
            config,
            nested.name("llama_4_scaling_beta"),
            view.get("llama_4_scaling_beta")
                .map_or(String::new(), |v| v.to_string()),
            "queries scaled by their position are not computed",
        ));
    }
    // Where the original context is given beside the rotary fields, that one is meant.
    let original_context = || -> Result<usize> {
        const FIELD: &str = "original_max_position_embeddings";
        let outer = config.opt_usize(FIELD)?;
        let inner = view.opt_usize(FIELD)?;
        Ok(outer.or(inner).unwrap_or(context_length))
    };
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
            "known: default, linear, llama3, yarn",
        )),
    }
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
