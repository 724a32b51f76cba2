use serde::{Deserialize, Serialize};

use crate::InvalidParam;

/// How to turn logits into a token. The chain and its order are in the crate's
/// documentation.
///
/// [`Default`] leaves the model's own distribution as it is: temperature 1 and
/// every filter and penalty off, as in vLLM and the OpenAI API. (llama.cpp's
/// command line starts from temperature 0.8, top-k 40, top-p 0.95, min-p 0.05;
/// transformers from top-k 50. A model's `generation_config.json` usually brings
/// its own.) Missing fields take their default when deserialized; unknown fields
/// are an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingParams {
    /// Divides the logits. Finite, ≥ 0; 0 is greedy: the largest logit, ties to
    /// the lowest id, and no random number. Default 1.
    pub temperature: f32,
    /// Keep the `top_k` largest logits; 0 (default), or anything from the size of
    /// the vocabulary up, keeps all.
    pub top_k: u32,
    /// Keep the shortest run of most probable tokens whose probability reaches
    /// this. In [0, 1]; 1 (default) keeps all, 0 keeps one.
    pub top_p: f32,
    /// Drop tokens less probable than this times the most probable. In [0, 1];
    /// 0 (default) keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens that occur in the
    /// last `penalty_last_n` tokens of prompt and generated text, once however
    /// often they occur. Finite, > 0; 1 (default) is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of each token that occurs in the generated
    /// text. In [-2, 2]; 0 (default) is off.
    pub presence_penalty: f32,
    /// Subtracted from the logit of each token of the generated text, as many
    /// times as it occurs there. In [-2, 2]; 0 (default) is off.
    pub frequency_penalty: f32,
    /// How many of the latest tokens `repetition_penalty` looks at. `None`
    /// (default; `null` in JSON) is all of them, 0 is none. The other two
    /// penalties do not look at it.
    pub penalty_last_n: Option<usize>,
    /// Added to the logits of these tokens; each id at most once. Finite, or -inf
    /// to ban the token. Empty by default. JSON: pairs `[[id, bias], …]` or an
    /// object `{"id": bias, …}`, where a bias of `null` stands for -inf.
    #[serde(with = "bias_format")]
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the random numbers. The default, 0, is a seed like any other: the
    /// same request gives the same text. Who wants variety passes a fresh one.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_last_n: None,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// Always the largest logit: temperature 0, everything else at its default.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            ..Self::default()
        }
    }

    /// Whether no random number will be drawn.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Checks every field against its documented range.
    ///
    /// # Errors
    /// The first field that is out of range (NaN always is), with its value and
    /// what is allowed.
    pub fn validate(&self) -> Result<(), InvalidParam> {
        check(
            "temperature",
            self.temperature,
            "a finite number ≥ 0 (0 is greedy)",
            |v| v >= 0.0,
        )?;
        check("top_p", self.top_p, "0 to 1 (1 is off)", |v| {
            (0.0..=1.0).contains(&v)
        })?;
        check("min_p", self.min_p, "0 to 1 (0 is off)", |v| {
            (0.0..=1.0).contains(&v)
        })?;
        check(
            "repetition_penalty",
            self.repetition_penalty,
            "a finite number > 0 (1 is off)",
            |v| v > 0.0,
        )?;
        check(
            "presence_penalty",
            self.presence_penalty,
            "-2 to 2 (0 is off)",
            |v| v.abs() <= 2.0,
        )?;
        check(
            "frequency_penalty",
            self.frequency_penalty,
            "-2 to 2 (0 is off)",
            |v| v.abs() <= 2.0,
        )?;
        for &(token, bias) in &self.logit_bias {
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(InvalidParam {
                    field: "logit_bias",
                    value: format!("{bias} for token {token}"),
                    allowed: "a finite number, or -inf to ban the token",
                });
            }
        }
        let mut ids: Vec<u32> = self.logit_bias.iter().map(|&(token, _)| token).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(InvalidParam {
                field: "logit_bias",
                value: format!("given more than once for token {}", pair[0]),
                allowed: "each token at most once",
            });
        }
        Ok(())
    }
}

fn check(
    field: &'static str,
    value: f32,
    allowed: &'static str,
    holds: impl Fn(f32) -> bool,
) -> Result<(), InvalidParam> {
    if value.is_finite() && holds(value) {
        return Ok(());
    }
    Err(InvalidParam {
        field,
        value: value.to_string(),
        allowed,
    })
}

/// JSON has no -inf: it is written as `null`, and pairs or an object are read.
mod bias_format {
    use std::fmt;

    use serde::de::{MapAccess, SeqAccess, Visitor};
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bias: &[(u32, f32)], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(
            bias.iter()
                .map(|&(token, bias)| (token, (bias != f32::NEG_INFINITY).then_some(bias))),
        )
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(u32, f32)>, D::Error> {
        from.deserialize_any(BiasVisitor)
    }

    struct BiasVisitor;

    impl<'de> Visitor<'de> for BiasVisitor {
        type Value = Vec<(u32, f32)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("pairs [[token id, bias], …] or an object {\"token id\": bias, …}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut out = Vec::new();
            while let Some((token, bias)) = seq.next_element::<(u32, Option<f32>)>()? {
                out.push((token, bias.unwrap_or(f32::NEG_INFINITY)));
            }
            Ok(out)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut out = Vec::new();
            while let Some((token, bias)) = map.next_entry::<u32, Option<f32>>()? {
                out.push((token, bias.unwrap_or(f32::NEG_INFINITY)));
            }
            Ok(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_greedy_are_valid() {
        SamplingParams::default().validate().unwrap();
        SamplingParams::greedy().validate().unwrap();
        assert!(SamplingParams::greedy().is_greedy());
        assert!(!SamplingParams::default().is_greedy());
    }

    #[test]
    fn each_field_is_checked_and_named() {
        type Edit = fn(&mut SamplingParams);
        let cases: [(&str, Edit); 17] = [
            ("temperature", |p| p.temperature = -0.1),
            ("temperature", |p| p.temperature = f32::NAN),
            ("temperature", |p| p.temperature = f32::INFINITY),
            ("top_p", |p| p.top_p = 1.01),
            ("top_p", |p| p.top_p = -0.01),
            ("top_p", |p| p.top_p = f32::NAN),
            ("min_p", |p| p.min_p = 1.5),
            ("min_p", |p| p.min_p = f32::NAN),
            ("repetition_penalty", |p| p.repetition_penalty = 0.0),
            ("repetition_penalty", |p| {
                p.repetition_penalty = f32::INFINITY
            }),
            ("repetition_penalty", |p| p.repetition_penalty = f32::NAN),
            ("presence_penalty", |p| p.presence_penalty = 2.5),
            ("presence_penalty", |p| p.presence_penalty = f32::NAN),
            ("frequency_penalty", |p| p.frequency_penalty = -2.5),
            ("logit_bias", |p| p.logit_bias = vec![(3, f32::NAN)]),
            ("logit_bias", |p| p.logit_bias = vec![(3, f32::INFINITY)]),
            ("logit_bias", |p| {
                p.logit_bias = vec![(3, 1.0), (4, 1.0), (3, 2.0)]
            }),
        ];
        for (field, edit) in cases {
            let mut params = SamplingParams::default();
            edit(&mut params);
            let error = params.validate().unwrap_err();
            assert_eq!(error.field, field, "{error}");
            assert!(error.to_string().contains("allowed"), "{error}");
        }
        let error = SamplingParams {
            top_p: 1.5,
            ..Default::default()
        }
        .validate()
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "top_p is 1.5; allowed: 0 to 1 (1 is off)"
        );
    }

    #[test]
    fn json_round_trip_keeps_a_ban() {
        let params = SamplingParams {
            temperature: 0.7,
            penalty_last_n: Some(64),
            logit_bias: vec![(7, f32::NEG_INFINITY), (2, 1.5)],
            seed: u64::MAX,
            ..Default::default()
        };
        let text = serde_json::to_string(&params).unwrap();
        assert_eq!(
            serde_json::from_str::<SamplingParams>(&text).unwrap(),
            params
        );
    }

    #[test]
    fn json_bias_as_an_object_and_defaults() {
        let params: SamplingParams =
            serde_json::from_str(r#"{"logit_bias": {"50256": -100, "3": null}, "top_k": 5}"#)
                .unwrap();
        assert_eq!(params.logit_bias, [(50256, -100.0), (3, f32::NEG_INFINITY)]);
        assert_eq!((params.top_k, params.top_p), (5, 1.0));
        assert!(serde_json::from_str::<SamplingParams>(r#"{"temprature": 1}"#).is_err());
        assert!(serde_json::from_str::<SamplingParams>(r#"{"logit_bias": {"x": 1}}"#).is_err());
    }
}
