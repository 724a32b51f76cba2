//! Layers in words, for people who look at a model.

use std::fmt;

use crate::spec::{Attention, Ffn, LayerSpec, Mixer, QkNorm};

impl fmt::Display for LayerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.mixer, self.ffn)
    }
}

impl fmt::Display for Mixer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mixer::Attention(a) => a.fmt(f),
            Mixer::Latent(l) => write!(
                f,
                "latent attention, {} heads of {} + {} on {}",
                l.heads, l.nope_dim, l.rope_dim, l.kv_rank
            ),
            Mixer::Delta(d) => write!(
                f,
                "gated delta net, {} heads of {} on {} of {}",
                d.value_heads, d.value_dim, d.key_heads, d.key_dim
            ),
            Mixer::Conv(c) => write!(f, "short convolution of {}", c.kernel),
        }
    }
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "attention, {} heads on {} of {}",
            self.heads, self.kv_heads, self.head_dim
        )?;
        if let Some(window) = self.window {
            write!(f, ", window {window}")?;
        }
        for (on, what) in [
            (self.qk_norm != QkNorm::None, ", normed q and k"),
            (self.softcap.is_some(), ", soft-capped"),
            (self.sinks, ", sinks"),
            (self.output_gate, ", gated"),
            (self.rope.is_none(), ", no positions"),
        ] {
            if on {
                f.write_str(what)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Ffn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ffn::Dense(d) => write!(f, "mlp {}", d.intermediate),
            Ffn::Moe(m) => {
                write!(
                    f,
                    "{} of {} experts of {}",
                    m.top_k, m.experts, m.intermediate
                )?;
                match &m.shared {
                    Some(shared) => write!(f, ", one of {} shared", shared.intermediate),
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{DeltaNet, Dense, Moe, Shared};
    use graph::{Activation, RouteScore};

    #[test]
    fn layers_say_what_tells_them_apart() {
        let attention = Attention {
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            scale: 1.0,
            window: Some(5),
            softcap: None,
            rope: None,
            qkv_bias: false,
            o_bias: false,
            qk_norm: QkNorm::Head,
            sinks: true,
            output_gate: false,
        };
        let layer = LayerSpec {
            mixer: Mixer::Attention(attention),
            ffn: Ffn::Dense(Dense {
                intermediate: 24,
                bias: false,
            }),
        };
        assert_eq!(
            layer.to_string(),
            "attention, 4 heads on 2 of 8, window 5, normed q and k, sinks, no positions; mlp 24"
        );
        let layer = LayerSpec {
            mixer: Mixer::Delta(DeltaNet {
                key_heads: 2,
                value_heads: 4,
                key_dim: 6,
                value_dim: 10,
                kernel: 4,
                log_decay: true,
                tiled: false,
            }),
            ffn: Ffn::Moe(Moe {
                experts: 8,
                top_k: 2,
                intermediate: 32,
                activation: Activation::Silu,
                score: RouteScore::Softmax,
                normalise: true,
                scale: 1.0,
                groups: None,
                selection_bias: false,
                router_bias: false,
                expert_bias: false,
                shared: Some(Shared {
                    intermediate: 12,
                    gate: true,
                }),
            }),
        };
        assert_eq!(
            layer.to_string(),
            "gated delta net, 4 heads of 10 on 2 of 6; 2 of 8 experts of 32, one of 12 shared"
        );
    }
}
