//! Mixtures of experts.

use formats::config::MAX_DIM;
use graph::{RouteGroups, RouteScore};

use super::GgufFile;
use crate::error::Result;
use crate::spec::{MAX_EXPERTS, ModelSpec, Moe, Shared};

/// What absent keys of a mixture mean, and what no key says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Experts {
    pub score: RouteScore,
    pub normalise: bool,
    /// A bias that takes part in choosing experts only.
    pub selection_bias: bool,
    /// Biases of the router and of the experts.
    pub biases: bool,
    /// The shared expert has a gate.
    pub shared_gate: bool,
}

impl Experts {
    /// A softmax over the chosen experts.
    pub(crate) const SOFTMAX: Experts = Experts {
        score: RouteScore::Softmax,
        normalise: true,
        selection_bias: false,
        biases: false,
        shared_gate: false,
    };
}

impl GgufFile<'_> {
    /// The mixture that the layers with experts have.
    ///
    /// Errors: no experts; keys out of range; routing that is not computed here.
    pub(crate) fn experts(&self, spec: &ModelSpec, defaults: &Experts) -> Result<Moe> {
        let keys = &self.keys;
        let experts = keys.usize_in("expert_count", 1..=MAX_EXPERTS)?;
        let top_k = keys.usize_in("expert_used_count", 1..=experts)?;
        let intermediate = match keys.opt_usize("expert_feed_forward_length")? {
            Some(size) => size,
            None => keys.usize("feed_forward_length")?,
        };
        const GATING: &str = "expert_gating_func";
        let (score, chosen_only) = match keys.opt_usize_in(GATING, 0..=MAX_DIM)? {
            None | Some(0) => (defaults.score, false),
            Some(1) => (RouteScore::Softmax, false),
            Some(2) => (RouteScore::Sigmoid, false),
            // A softmax over the chosen is one over all, normalised.
            Some(3) => (RouteScore::Softmax, true),
            Some(_) => {
                let reason = "known: 1 (softmax), 2 (sigmoid), 3 (softmax over the chosen)";
                return Err(self.unsupported(GATING, reason));
            }
        };
        let normalise = keys.opt_bool("expert_weights_norm")?;
        let normalise = normalise.unwrap_or(defaults.normalise) || chosen_only;
        let groups = self.groups(experts, top_k)?;
        if groups.is_some() && score == RouteScore::Softmax {
            let reason = "groups of experts are computed with sigmoid routing only";
            return Err(self.unsupported("expert_group_used_count", reason));
        }
        let shared = match keys.opt_usize_in("expert_shared_feed_forward_length", 0..=MAX_DIM)? {
            Some(size) => size,
            None => {
                let count = keys.opt_usize_in("expert_shared_count", 0..=MAX_EXPERTS)?;
                count.unwrap_or(0) * intermediate
            }
        };
        Ok(Moe {
            experts,
            top_k,
            intermediate,
            activation: spec.activation,
            score,
            normalise,
            scale: self.factor("expert_weights_scale")?.unwrap_or(1.0),
            groups,
            selection_bias: defaults.selection_bias,
            router_bias: defaults.biases,
            expert_bias: defaults.biases,
            shared: (shared > 0).then_some(Shared {
                intermediate: shared,
                gate: defaults.shared_gate,
            }),
        })
    }

    fn groups(&self, experts: usize, top_k: usize) -> Result<Option<RouteGroups>> {
        const USED: &str = "expert_group_used_count";
        let count = |key| self.keys.opt_usize_in(key, 0..=MAX_EXPERTS);
        let all = count("expert_group_count")?.unwrap_or(0).max(1);
        // All groups kept is no grouping.
        let Some(keep) = count(USED)?.filter(|keep| *keep > 0 && *keep < all) else {
            return Ok(None);
        };
        let each = experts / all;
        if !experts.is_multiple_of(all) || each < 2 || top_k > keep * each {
            let wanted = format!(
                "so many of {all} groups of {experts} experts (two or more in each) that they hold {top_k}"
            );
            return Err(self.keys.invalid(USED, &wanted).into());
        }
        Ok(Some(RouteGroups { count: all, keep }))
    }
}
