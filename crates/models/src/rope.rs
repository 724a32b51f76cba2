//! Rotary position embedding: from the configuration to inverse frequencies.
//!
//! Frequencies are computed once, on the host, in f32 and in the order of operations that
//! transformers uses, so that a graph's constant equals the reference's up to the last bit of
//! `pow`. Position p rotates pair i by p·`inv_freq[i]`.

use std::f64::consts::PI;
use std::fmt;

mod read;

pub(crate) use read::{LayerRope, RopeDefaults};

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
    /// Each frequency divided by a number of its own: one list up to the original context, another
    /// for sequences beyond it.
    LongRope {
        original_context: usize,
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
    /// Pairs are neighbours instead of half the rotating elements apart.
    pub interleaved: bool,
    pub scaling: RopeScaling,
    /// `[rotary_dim / 2]`, radians per position.
    pub inv_freq: Vec<f32>,
    /// Those for sequences longer than the given context, where they are others.
    pub long: Option<(usize, Vec<f32>)>,
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
            RopeScaling::LongRope {
                attention_factor, ..
            } => (plain.collect(), attention_factor),
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
            interleaved: false,
            scaling,
            inv_freq,
            long: None,
            attention_factor: attention_factor as f32,
        };
        let finite =
            rope.inv_freq.iter().all(|f| f.is_finite()) && rope.attention_factor.is_finite();
        finite.then_some(rope)
    }

    /// LongRoPE: frequencies divided by `short`, and by `long` for sequences longer than
    /// `original_context`; `rotary_dim / 2` divisors each. `None` when a result is not finite.
    pub fn long(
        theta: f64,
        rotary_dim: usize,
        (short, long): (&[f32], &[f32]),
        original_context: usize,
        attention_factor: f64,
    ) -> Option<Self> {
        let scaling = RopeScaling::LongRope {
            original_context,
            attention_factor,
        };
        let mut rope = Self::new(theta, rotary_dim, scaling)?;
        let bases = position_frequencies(theta, rotary_dim);
        let divide = |divisors: &[f32]| -> Option<Vec<f32>> {
            let pairs = divisors.iter().zip(&bases);
            let freqs: Vec<f32> = pairs.map(|(d, base)| 1.0 / (d * base)).collect();
            let whole = freqs.len() == bases.len() && freqs.iter().all(|f| f.is_finite());
            whole.then_some(freqs)
        };
        rope.inv_freq = divide(short)?;
        rope.long = Some((original_context, divide(long)?));
        Some(rope)
    }

    /// The frequencies for sequences of up to `context` positions.
    pub fn frequencies(&self, context: usize) -> &[f32] {
        match &self.long {
            Some((limit, long)) if context > *limit => long,
            _ => &self.inv_freq,
        }
    }
}

impl fmt::Display for Rope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, theta {}, {} dims{}",
            self.scaling,
            self.theta,
            self.rotary_dim,
            if self.interleaved { " in pairs" } else { "" }
        )
    }
}

impl fmt::Display for RopeScaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RopeScaling::Default => f.write_str("default"),
            RopeScaling::Divided => f.write_str("divided as the weights say"),
            RopeScaling::LongRope {
                original_context, ..
            } => write!(f, "longrope from {original_context}"),
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
