//! Rotary settings.

use formats::config::MAX_DIM;

use super::GgufFile;
use crate::error::{ModelError, Result};
use crate::rope::{DEFAULT_THETA, Rope, RopeScaling};
use crate::spec::MAX_HEAD_DIM;

/// Divisors of the rotary frequencies, where a model has any.
pub(super) const DIVISORS: &str = "rope_freqs.weight";
/// The same up to the context of the training and beyond it.
pub(super) const SHORT: &str = "rope_factors_short.weight";
pub(super) const LONG: &str = "rope_factors_long.weight";

const THETA: &str = "rope.freq_base";
const KIND: &str = "rope.scaling.type";
const CONTEXT: &str = "rope.scaling.original_context_length";

impl GgufFile<'_> {
    /// The rotary setting of the model, in heads of `head_dim` elements.
    pub(crate) fn rope(&self, head_dim: usize) -> Result<Rope> {
        let rotary_dim = self.rotary_dim(head_dim)?;
        let theta = self.theta(THETA)?.unwrap_or(DEFAULT_THETA);
        let scaling = self.scaling()?;
        let has = |name| self.tensors.contains(name);
        let lists = has(SHORT) || has(LONG);
        if (lists || has(DIVISORS)) && scaling != RopeScaling::Default {
            let reason = "the file also divides the frequencies by tensors of its own";
            return Err(self.unsupported(KIND, reason));
        }
        let rope = if lists {
            let pair = (
                self.divisors(SHORT, rotary_dim)?,
                self.divisors(LONG, rotary_dim)?,
            );
            let context = self.keys.usize(CONTEXT)?;
            let factor = self.factor("rope.scaling.attn_factor")?.unwrap_or(1.0);
            Rope::long(
                theta,
                rotary_dim,
                (&pair.0, &pair.1),
                context,
                factor.into(),
            )
        } else if has(DIVISORS) {
            let divisors = self.divisors(DIVISORS, rotary_dim)?;
            Rope::divided(theta, rotary_dim, &divisors)
        } else {
            Rope::new(theta, rotary_dim, scaling)
        };
        rope.ok_or_else(|| self.not_finite(theta, scaling))
    }

    /// The unscaled setting of layers that slide.
    pub(crate) fn sliding_rope(&self, head_dim: usize) -> Result<Rope> {
        let rotary_dim = self.rotary_dim(head_dim)?;
        let theta = self.theta("rope.freq_base_swa")?.unwrap_or(DEFAULT_THETA);
        let rope = Rope::new(theta, rotary_dim, RopeScaling::Default);
        rope.ok_or_else(|| self.not_finite(theta, RopeScaling::Default))
    }

    fn not_finite(&self, theta: f64, scaling: RopeScaling) -> ModelError {
        ModelError::inconsistent(
            self.keys.file(),
            format!(
                "the rotary settings ({scaling}, theta {theta}) give frequencies that are not finite; check them"
            ),
        )
    }

    fn theta(&self, key: &str) -> Result<Option<f64>> {
        match self.keys.opt_f64(key)? {
            Some(theta) if theta <= 1.0 || !(theta as f32).is_finite() => {
                Err(self.keys.invalid(key, "a number above 1").into())
            }
            theta => Ok(theta),
        }
    }

    fn rotary_dim(&self, head_dim: usize) -> Result<usize> {
        const KEY: &str = "rope.dimension_count";
        let Some(dim) = self.keys.opt_usize_in(KEY, 1..=MAX_HEAD_DIM)? else {
            return Ok(head_dim);
        };
        if self.architecture.qk_interleaved && dim != head_dim {
            let reason = format!("heads have {head_dim} elements, all of which rotate");
            return Err(self.unsupported(KEY, &reason));
        }
        if dim > head_dim || !dim.is_multiple_of(2) {
            let wanted = format!("an even number up to the head size, which is {head_dim}");
            return Err(self.keys.invalid(KEY, &wanted).into());
        }
        Ok(dim)
    }

    /// One divisor for each rotating pair.
    fn divisors(&self, name: &str, rotary_dim: usize) -> Result<Vec<f32>> {
        let pairs = rotary_dim / 2;
        let Some(found) = self.tensors.get(name) else {
            return Err(ModelError::MissingTensor {
                tensor: name.to_string(),
                shape: format!("[{pairs}]"),
                others: 0,
                hint: format!("`{SHORT}` and `{LONG}` belong together; download the file again"),
            });
        };
        let divisors = match found.info.shape.as_slice() {
            [n] if *n == pairs => found.to_f32(),
            _ => None,
        };
        divisors.ok_or_else(|| ModelError::TensorShape {
            tensor: name.to_string(),
            wanted: format!("[{pairs}]"),
            found: format!("{:?} of {}", found.info.shape, found.info.stored),
            hint: "it holds one number for each rotating pair of a head".to_string(),
        })
    }

    fn scaling(&self) -> Result<RopeScaling> {
        let keys = &self.keys;
        let kind = keys.opt_str(KIND)?;
        // Old files have this key alone.
        let old = keys.opt_positive_f64("rope.scale_linear")?;
        let factor = keys.opt_f64("rope.scaling.factor")?;
        // 0 stands for none.
        let factor = factor.filter(|f| *f != 0.0).or(old);
        let required = || match factor {
            Some(factor) if factor > 0.0 => Ok(factor),
            _ => Err(keys.invalid("rope.scaling.factor", "a number above 0")),
        };
        match kind {
            Some("none") => Ok(RopeScaling::Default),
            // Its lists are tensors.
            Some("longrope") if self.tensors.contains(LONG) => Ok(RopeScaling::Default),
            None if factor.is_none_or(|f| f == 1.0) => Ok(RopeScaling::Default),
            None | Some("linear") => Ok(RopeScaling::Linear {
                factor: required()?,
            }),
            Some("yarn") => self.yarn(required()?),
            Some(_) => Err(self.unsupported(KIND, "known: none, linear, yarn, longrope")),
        }
    }

    fn yarn(&self, factor: f64) -> Result<RopeScaling> {
        let number = |key: &str, default| -> Result<f64> {
            Ok(self.keys.opt_positive_f64(key)?.unwrap_or(default))
        };
        // Where the attention scale grows with the factor, cosines and sines do not.
        let implied = match self.attention_growth()? {
            Some(_) => 1.0,
            None => yarn_growth(factor, 1.0),
        };
        let attention_factor = number("rope.scaling.yarn_attn_factor", implied)?;
        let original_context = self.keys.opt_usize_in(CONTEXT, 1..=MAX_DIM)?;
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: number("rope.scaling.yarn_beta_fast", 32.0)?,
            beta_slow: number("rope.scaling.yarn_beta_slow", 1.0)?,
            original_context: match original_context {
                Some(context) => context,
                None => self.keys.usize("context_length")?,
            },
            truncate: true,
            attention_factor: number("rope.scaling.attn_factor", 1.0)? * attention_factor,
        })
    }

    /// How much of the growth of [`yarn_growth`] the attention scale has.
    fn attention_growth(&self) -> Result<Option<f64>> {
        const KEY: &str = "rope.scaling.yarn_log_multiplier";
        // The file has it with the tenth of `yarn_growth`.
        let share = self.keys.opt_f64_in(KEY, 0.0..=1e6)?.map(|m| m * 10.0);
        Ok(share.filter(|share| *share > 0.0))
    }

    /// What a scaled rotation multiplies the attention scale by.
    pub(crate) fn attention_factor(&self, rope: &Rope) -> Result<f32> {
        let (RopeScaling::Yarn { factor, .. }, Some(share)) =
            (rope.scaling, self.attention_growth()?)
        else {
            return Ok(1.0);
        };
        let growth = yarn_growth(factor, share);
        Ok((growth * growth) as f32)
    }
}

fn yarn_growth(factor: f64, share: f64) -> f64 {
    match factor > 1.0 {
        true => 0.1 * share * factor.ln() + 1.0,
        false => 1.0,
    }
}
