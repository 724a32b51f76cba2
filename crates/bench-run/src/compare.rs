//! Two artifacts side by side: a table and a verdict.

use crate::artifact::{Artifact, Status};
use crate::stat::Stat;

/// What a difference between two medians means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Better,
    Worse,
    /// Within what the samples scatter by.
    Same,
}

/// Differences below this are none, however quiet the machine was.
const LEAST: f64 = 0.01;

/// One metric in both.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub metric: String,
    pub unit: String,
    pub before: f64,
    pub after: f64,
    /// Above 1 where AFTER is better, whichever direction that is.
    pub gain: f64,
    pub change: Change,
}

#[derive(Clone, Debug)]
pub struct Compared {
    pub rows: Vec<Row>,
    /// Why the two say nothing of each other; none if they do.
    pub unlike: Vec<String>,
    /// Differences that a reader must know of.
    pub differing: Vec<String>,
}

/// Compares the metrics that both have.
pub fn compare(before: &Artifact, after: &Artifact) -> Compared {
    let rows = before.measurements.iter().filter_map(|(name, b)| {
        let a = after.measurements.get(name)?;
        let gain = match b.higher_is_better {
            true => a.median / b.median,
            false => b.median / a.median,
        };
        Some(Row {
            metric: name.clone(),
            unit: b.unit.clone(),
            before: b.median,
            after: a.median,
            gain,
            change: change(b, a, gain),
        })
    });
    let mut unlike = Vec::new();
    let mut differing = Vec::new();
    let (w, v) = (&before.workload, &after.workload);
    let mut must = |what: &str, a: String, b: String| {
        if a != b {
            unlike.push(format!("{what}: {a} and {b}"));
        }
    };
    let shape = |w: &crate::artifact::Workload| {
        format!(
            "{} prompt, {} generated, depth {}, batch {}",
            w.prompt_tokens, w.gen_tokens, w.depth, w.batch
        )
    };
    must("workload", shape(w), shape(v));
    if w.fingerprint != v.fingerprint {
        must(
            "model",
            w.model.clone(),
            format!("{} (other weights)", v.model),
        );
    }
    let hardware = |a: &Artifact| a.hardware.clone();
    if let (Some(h), Some(g)) = (hardware(before), hardware(after)) {
        must("device", h.device, g.device);
        let mut may = |what: &str, a: String, b: String| {
            if a != b {
                differing.push(format!("{what}: {a} -> {b}"));
            }
        };
        may("backend", h.backend, g.backend);
        may("threads", h.threads.to_string(), g.threads.to_string());
        may("driver", h.driver, g.driver);
        let text = |o: &Option<String>| o.clone().unwrap_or("?".into());
        may("KV", text(&w.kv), text(&v.kv));
        let (s, t) = (&before.software, &after.software);
        may("commit", text(&s.commit), text(&t.commit));
        may("compiler", text(&s.compiler), text(&t.compiler));
        may("profile", text(&s.profile), text(&t.profile));
    }
    for (name, a) in [("the first", before), ("the second", after)] {
        let state = format!("{name} is {:?}: {}", a.status, a.decision.reason);
        match a.status {
            Status::Accepted => {}
            // What computes something else, or nothing, has no speed.
            Status::RejectedCorrectness | Status::Blocked => unlike.push(state),
            _ => differing.push(state),
        }
    }
    for name in before.measurements.keys() {
        if !after.measurements.contains_key(name) {
            unlike.push(format!("the second has no {name}"));
        }
    }
    Compared {
        rows: rows.collect(),
        unlike,
        differing,
    }
}

fn change(before: &Stat, after: &Stat, gain: f64) -> Change {
    // Two standard errors of the ratio of the medians.
    let noise = 2.0 * (before.doubt().powi(2) + after.doubt().powi(2)).sqrt();
    let bound = noise.max(LEAST);
    match gain {
        g if g > 1.0 + bound => Change::Better,
        g if g < 1.0 - bound => Change::Worse,
        _ => Change::Same,
    }
}

impl Compared {
    pub fn comparable(&self) -> bool {
        self.unlike.is_empty() && !self.rows.is_empty()
    }

    pub fn verdict(&self) -> String {
        if !self.unlike.is_empty() {
            return format!("not comparable: {}", self.unlike.join("; "));
        }
        if self.rows.is_empty() {
            return "nothing to compare: they share no metric".into();
        }
        let of = |change: Change| -> Vec<&str> {
            let rows = self.rows.iter().filter(|r| r.change == change);
            rows.map(|r| r.metric.as_str()).collect()
        };
        match (of(Change::Better), of(Change::Worse)) {
            (b, w) if b.is_empty() && w.is_empty() => "no difference beyond the noise".into(),
            (b, w) if w.is_empty() => format!("better: {}", b.join(", ")),
            (b, w) if b.is_empty() => format!("worse: {}", w.join(", ")),
            (b, w) => format!("mixed: better {}; worse {}", b.join(", "), w.join(", ")),
        }
    }

    /// Metrics whose gain is below a ratio.
    pub fn below(&self, ratio: f64) -> Vec<&Row> {
        // What is no number holds nothing.
        let holds = |r: &&Row| r.gain >= ratio;
        self.rows.iter().filter(|r| !holds(r)).collect()
    }
}

impl std::fmt::Display for Compared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:24} {:>14} {:>14}  {:>7}",
            "metric", "before", "after", "gain"
        )?;
        for r in &self.rows {
            let word = match r.change {
                Change::Better => "better",
                Change::Worse => "worse",
                Change::Same => "within noise",
            };
            writeln!(
                f,
                "{:24} {:>14.3} {:>14.3}  {:>6.3}x  {word} ({})",
                r.metric, r.before, r.after, r.gain, r.unit
            )?;
        }
        for d in &self.differing {
            writeln!(f, "note: {d}")?;
        }
        writeln!(f, "{}", self.verdict())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stat::Unit;

    fn stat(samples: &[f64]) -> Stat {
        Stat::of(Unit::TokensPerSecond, samples.to_vec()).unwrap()
    }

    #[test]
    fn a_change_must_exceed_the_noise() {
        let quiet = stat(&[100.0, 100.1, 99.9, 100.0, 100.0]);
        let faster = stat(&[105.0, 105.1, 104.9, 105.0, 105.0]);
        let loud = stat(&[90.0, 120.0, 105.0, 80.0, 130.0]);
        let of = |a: &Stat, b: &Stat| change(a, b, b.median / a.median);
        assert_eq!(of(&quiet, &faster), Change::Better);
        assert_eq!(of(&faster, &quiet), Change::Worse);
        assert_eq!(of(&quiet, &quiet), Change::Same);
        assert_eq!(of(&quiet, &loud), Change::Same);
    }
}
