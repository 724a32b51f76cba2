//! A folder of artifacts as one page: tables and charts.

use crate::artifact::{Artifact, Status, metric, write_whole};
use crate::schema;
use crate::svg::{Axis, Chart, Series};
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Writes `report.md`, its charts and, of profiled runs, `roofline.md`: what it wrote, and what it could not read.
pub fn report(dir: &Path, out: &Path) -> Result<(Vec<PathBuf>, Vec<String>)> {
    let mut all: Vec<(String, Artifact)> = Vec::new();
    let mut skipped = Vec::new();
    for path in schema::files(&[dir.to_path_buf()])? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        match Artifact::read(&path) {
            Ok(artifact) => all.push((name.into_owned(), artifact)),
            Err(e) => skipped.push(format!("{e:#}")),
        }
    }
    if all.is_empty() {
        bail!(
            "{} holds no artifacts: write some with --json",
            dir.display()
        );
    }
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut written = Vec::new();
    let mut charts = Vec::new();
    for (file, chart) in charts_of(&all) {
        if let Some(svg) = chart.svg() {
            let path = out.join(&file);
            write_whole(&path, &svg)?;
            written.push(path);
            charts.push((file, chart.title));
        }
    }
    let (roofs, charts): (Vec<_>, Vec<_>) =
        (charts.into_iter()).partition(|(file, _)| file.starts_with(ROOFLINE));
    let mut pages = vec![("report.md", page(&all, &charts))];
    if let Some(page) = rooflines(&all, &roofs) {
        pages.push(("roofline.md", page));
    }
    for (file, text) in pages {
        let path = out.join(file);
        write_whole(&path, &text)?;
        written.push(path);
    }
    Ok((written, skipped))
}

/// What the charts of kernels under a roof are called.
const ROOFLINE: &str = "roofline-";

/// Every kernel of every profiled run: its time, bytes and operations, and what of
/// the device's measured ceilings it reaches.
fn rooflines(all: &[(String, Artifact)], charts: &[(String, String)]) -> Option<String> {
    let mut out = String::from(
        "# Rooflines\n\nKernels of profiled steps, each timed alone: bytes are those of the weights, caches and activations that the plan declares, operations those of the maths. Shares are of what the device was measured to do in the same run: its fastest copy or read, and the rate of the activations' format where that was measured.\n",
    );
    let mut any = false;
    for (name, a) in all {
        for phase in &a.profile {
            any = true;
            let device = a.hardware.as_ref().map_or("none", |h| h.device.as_str());
            out += &format!(
                "\n## {}, {} of {} rows\n\n{}, {} cached before, {} sequences: {:.3} ms of kernels. Artifact: {}.\n\n",
                cell(&a.workload.model),
                phase.name,
                phase.rows,
                cell(device),
                phase.depth,
                phase.sequences,
                phase.kernels_s * 1e3,
                cell(name),
            );
            let chart = format!("{ROOFLINE}{name}.svg");
            if charts.iter().any(|(file, _)| *file == chart) {
                out += &format!("![roofline]({chart})\n\n");
            }
            out += "| kernel | matrices | uses | µs each | share | MB | GB/s | of bandwidth | Gop | Gop/s | of compute |\n|---|---|---|---|---|---|---|---|---|---|---|\n";
            for k in &phase.kernels {
                let uses = k.uses_s.len().max(1) as f64;
                let percent =
                    |x: Option<f64>| x.map_or("–".into(), |x| format!("{:.0} %", x * 100.0));
                out += &format!(
                    "| {} | {} | {} | {:.1} | {} | {:.2} | {:.0} | {} | {:.2} | {:.0} | {} |\n",
                    cell(&k.key),
                    cell(&k.matrices.join(", ")),
                    k.uses_s.len(),
                    k.seconds / uses * 1e6,
                    percent(Some(k.seconds / phase.kernels_s.max(f64::MIN_POSITIVE))),
                    k.bytes as f64 / uses / 1e6,
                    k.gbytes_s,
                    percent(k.of_bandwidth),
                    k.flops as f64 / uses / 1e9,
                    k.gflops_s,
                    percent(k.of_compute),
                );
            }
        }
    }
    any.then_some(out)
}

fn page(all: &[(String, Artifact)], charts: &[(String, String)]) -> String {
    let mut out = String::from(
        "# Measurements\n\nMedians; `×` is ours over the best peer that ran in turn. Rows that are not accepted say why below.\n\n",
    );
    out += "| artifact | model | device | threads | prompt | generated | depth | batch | prefill tok/s | × | decode tok/s | × | batch tok/s | × | peak MiB | status |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
    for (name, a) in all {
        let w = &a.workload;
        let (backend, threads) = match &a.hardware {
            Some(h) => (
                format!("{} on {}", h.backend, h.device),
                h.threads.to_string(),
            ),
            None => ("none".into(), "–".into()),
        };
        let cells: Vec<String> = [metric::PREFILL, metric::DECODE, metric::BATCH_DECODE]
            .into_iter()
            .flat_map(|m| {
                let own = a.measurements.get(m);
                let ratio = a.comparison.iter().find(|c| c.metric == m);
                [
                    own.map_or("–".into(), |s| format!("{:.1}", s.median)),
                    ratio.map_or("–".into(), |c| format!("{:.2}", c.ratio)),
                ]
            })
            .collect();
        let peak = a.memory.as_ref().and_then(|m| m.peak_resident_bytes);
        let peak = peak.map_or("–".into(), |b| (b >> 20).to_string());
        out += &format!(
            "| {} | {} | {} | {threads} | {} | {} | {} | {} | {} | {peak} | {} |\n",
            cell(name),
            cell(&w.model),
            cell(&backend),
            w.prompt_tokens,
            w.gen_tokens,
            w.depth,
            w.batch,
            cells.join(" | "),
            status(a.status)
        );
    }
    let rejected: Vec<_> = all
        .iter()
        .filter(|(_, a)| a.status != Status::Accepted)
        .collect();
    if !rejected.is_empty() {
        out += "\n## Not accepted\n\n";
        for (name, a) in rejected {
            out += &format!("- {}: {}\n", cell(name), a.decision.reason);
        }
    }
    out += &sampled(all);
    let gates: Vec<_> = all
        .iter()
        .filter_map(|(n, a)| Some((n, a.correctness.as_ref()?)))
        .collect();
    if !gates.is_empty() {
        out += "\n## Gates\n\n| artifact | kernel uses | worst of tolerance | against | positions | mean KL | max KL | top-1 | activations cost | logit error |\n|---|---|---|---|---|---|---|---|---|---|\n";
        for (name, c) in gates {
            let e = |x: Option<f64>| x.map_or("–".into(), |x| format!("{x:.1e}"));
            out += &format!(
                "| {} | {} | {:.2} | {} | {} | {} | {} | {} | {} | {} |\n",
                cell(name),
                c.kernels,
                c.kernels_worst,
                cell(&c.chain),
                c.positions,
                e(c.kl_mean),
                e(c.kl_max),
                c.top1.map_or("–".into(), |t| format!("{:.2} %", t * 100.0)),
                e(c.act_kl_mean),
                e(c.logit_error)
            );
        }
    }
    if !charts.is_empty() {
        out += "\n## Charts\n\n";
        for (file, title) in charts {
            out += &format!("![{}]({file})\n\n", cell(title));
        }
    }
    out
}

/// Rows that time drawn tokens, too, beside their greedy ones.
fn sampled(all: &[(String, Artifact)]) -> String {
    let mut out = String::new();
    for (name, a) in all {
        let [greedy, drawn] =
            [metric::DECODE, metric::SAMPLED_DECODE].map(|m| a.measurements.get(m));
        let (Some(greedy), Some(drawn)) = (greedy, drawn) else {
            continue;
        };
        if out.is_empty() {
            out += "\n## Drawn tokens\n\n| artifact | model | steps | tok/s | of greedy |\n|---|---|---|---|---|\n";
        }
        out += &format!(
            "| {} | {} | {} | {:.1} | {:.2} |\n",
            cell(name),
            cell(&a.workload.model),
            cell(a.workload.sampling.as_deref().unwrap_or("–")),
            drawn.median,
            drawn.median / greedy.median
        );
    }
    out
}

fn status(status: Status) -> &'static str {
    match status {
        Status::Accepted => "accepted",
        Status::RejectedCorrectness => "rejected_correctness",
        Status::RejectedVariance => "rejected_variance",
        Status::Blocked => "blocked",
        Status::Diagnostic => "diagnostic",
    }
}

/// Text that does not end its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

fn charts_of(all: &[(String, Artifact)]) -> Vec<(String, Chart)> {
    let mut charts = vec![
        (
            "depth.svg".to_string(),
            throughput(
                all,
                "Decode against depth",
                "tokens cached",
                metric::DECODE,
                |a| f64::from(a.workload.depth),
            ),
        ),
        (
            "prefill-depth.svg".to_string(),
            throughput(
                all,
                "Prefill against depth",
                "tokens cached",
                metric::PREFILL,
                |a| f64::from(a.workload.depth),
            ),
        ),
        (
            "batch.svg".to_string(),
            throughput(
                all,
                "Decode of all sequences against batch",
                "sequences",
                metric::BATCH_DECODE,
                |a| f64::from(a.workload.batch),
            ),
        ),
        ("kl.svg".to_string(), quality(all)),
    ];
    for (name, a) in all {
        charts.extend(roofline(name, a));
    }
    charts
}

/// What a curve is of.
fn curve(a: &Artifact) -> String {
    let backend = a.hardware.as_ref().map_or("none", |h| h.backend.as_str());
    format!("{}, {backend}", a.workload.model)
}

fn throughput(
    all: &[(String, Artifact)],
    title: &str,
    x: &str,
    metric: &str,
    at: impl Fn(&Artifact) -> f64,
) -> Chart {
    let mut curves: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (_, a) in all {
        // A batch of one is the decode of one sequence.
        let own = a.measurements.get(metric).or_else(|| {
            let single = metric == metric::BATCH_DECODE && a.workload.batch == 1;
            a.measurements.get(metric::DECODE).filter(|_| single)
        });
        if let Some(own) = own {
            curves
                .entry(curve(a))
                .or_default()
                .push((at(a), own.median));
        }
        let peer = a.comparison.iter().find(|c| c.metric == metric);
        if let Some(c) = peer {
            let name = format!("{}, peer", a.workload.model);
            curves.entry(name).or_default().push((at(a), c.theirs));
        }
    }
    let series = curves.into_iter().map(|(name, mut points)| {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series {
            name,
            points,
            line: true,
            dots: true,
        }
    });
    // One place on the axis is no curve.
    let series: Vec<Series> = series
        .filter(|s| s.points.first().map(|p| p.0) != s.points.last().map(|p| p.0))
        .collect();
    Chart {
        title: title.into(),
        x: Axis::linear(x),
        y: Axis::linear("tokens per second"),
        series,
    }
}

fn quality(all: &[(String, Artifact)]) -> Chart {
    let mut series = Vec::new();
    for (_, a) in all {
        let quality = a.correctness.as_ref().and_then(|c| c.quality.as_ref());
        let Some(kl) = quality.and_then(|q| q.kl_mean) else {
            continue;
        };
        series.push(Series {
            name: a.workload.model.clone(),
            points: vec![(a.workload.bits_per_weight, kl)],
            line: false,
            dots: true,
        });
    }
    Chart {
        title: "KL against the unquantised model".into(),
        x: Axis::linear("bits per weight"),
        y: Axis::log("mean KL, nats"),
        series,
    }
}

/// Kernels under the roof of one run's ceilings.
fn roofline(name: &str, a: &Artifact) -> Option<(String, Chart)> {
    let ceilings = a.ceilings.as_ref()?;
    let bandwidth = ceilings.bandwidth()?;
    let mut series = Vec::new();
    for (what, rate) in [
        ("f32", &ceilings.f32),
        ("bf16", &ceilings.bf16),
        ("int8", &ceilings.int8),
    ] {
        if let Some(rate) = rate {
            let knee = rate.gflops_s / bandwidth;
            series.push(Series {
                name: format!("{what} roof ({})", rate.with),
                points: [0.1, knee, knee * 100.0]
                    .map(|x: f64| (x, (x * bandwidth).min(rate.gflops_s)))
                    .to_vec(),
                line: true,
                dots: false,
            });
        }
    }
    for phase in &a.profile {
        let points: Vec<(f64, f64)> = (phase.kernels.iter())
            .filter(|k| k.flops > 0 && k.bytes > 0)
            .map(|k| (k.flops as f64 / k.bytes as f64, k.gflops_s))
            .collect();
        if !points.is_empty() {
            series.push(Series {
                name: format!("{} of {} rows", phase.name, phase.rows),
                points,
                line: false,
                dots: true,
            });
        }
    }
    let chart = Chart {
        title: format!("Roofline: {}", a.workload.model),
        x: Axis::log("operations per byte"),
        y: Axis::log("10^9 operations per second"),
        series,
    };
    Some((format!("{ROOFLINE}{name}.svg"), chart)).filter(|_| !a.profile.is_empty())
}
