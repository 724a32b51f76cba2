//! Charts as SVG: points and lines on two axes, linear or logarithmic.

use std::fmt::Write as _;

/// One series.
#[derive(Clone, Debug)]
pub struct Series {
    pub name: String,
    /// In ascending x where they are joined.
    pub points: Vec<(f64, f64)>,
    /// Join the points.
    pub line: bool,
    /// Mark the points.
    pub dots: bool,
}

#[derive(Clone, Debug)]
pub struct Chart {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub series: Vec<Series>,
}

#[derive(Clone, Debug)]
pub struct Axis {
    pub label: String,
    pub log: bool,
}

impl Axis {
    pub fn linear(label: &str) -> Self {
        Axis {
            label: label.into(),
            log: false,
        }
    }

    pub fn log(label: &str) -> Self {
        Axis {
            label: label.into(),
            log: true,
        }
    }
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 56.0;
/// Distinct for colour-blind eyes too (Okabe and Ito).
const COLOURS: &[&str] = &[
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#8c6d31",
];

/// From values to places on the page.
struct Scale {
    log: bool,
    from: f64,
    to: f64,
    ticks: Vec<f64>,
}

impl Scale {
    fn of(log: bool, values: impl Iterator<Item = f64>) -> Option<Self> {
        let usable = |v: &f64| v.is_finite() && (!log || *v > 0.0);
        let mut range: Option<(f64, f64)> = None;
        for v in values.filter(usable) {
            let (lo, hi) = range.unwrap_or((v, v));
            range = Some((lo.min(v), hi.max(v)));
        }
        let (lo, hi) = range?;
        if log {
            let (a, b) = (
                lo.log10().floor(),
                hi.log10().ceil().max(lo.log10().floor() + 1.0),
            );
            let ticks = (a as i32..=b as i32).map(|e| 10f64.powi(e)).collect();
            return Some(Scale {
                log,
                from: a,
                to: b,
                ticks,
            });
        }
        // From zero: lengths then mean what they seem to.
        let (lo, hi) = (lo.min(0.0), if hi > lo.min(0.0) { hi } else { lo + 1.0 });
        let rough = (hi - lo) / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|m| m * power)
            .find(|s| *s >= rough)
            .unwrap_or(rough);
        let (first, last) = ((lo / step).floor() as i64, (hi / step).ceil() as i64);
        Some(Scale {
            log,
            from: first as f64 * step,
            to: last as f64 * step,
            ticks: (first..=last).map(|i| i as f64 * step).collect(),
        })
    }

    fn at(&self, v: f64) -> f64 {
        let v = if self.log { v.log10() } else { v };
        (v - self.from) / (self.to - self.from)
    }
}

fn number(v: f64) -> String {
    match v.abs() {
        0.0 => "0".into(),
        a if !(1e-3..1e4).contains(&a) => format!("{v:.0e}"),
        a if a >= 10.0 => format!("{v:.0}"),
        _ => {
            let text = format!("{v:.3}");
            text.trim_end_matches('0').trim_end_matches('.').into()
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

impl Chart {
    /// The chart as a document; `None` if there is nothing to draw.
    pub fn svg(&self) -> Option<String> {
        let all = || self.series.iter().flat_map(|s| &s.points);
        let x = Scale::of(self.x.log, all().map(|p| p.0))?;
        let y = Scale::of(self.y.log, all().map(|p| p.1))?;
        let (w, h) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let place = |p: &(f64, f64)| (LEFT + x.at(p.0) * w, TOP + (1.0 - y.at(p.1)) * h);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>\n",
            escape(&self.title)
        );
        let mut put = |line: String| {
            out.push_str(&line);
            out.push('\n');
        };
        for t in &x.ticks {
            let at = LEFT + x.at(*t) * w;
            put(format!(
                "<path d=\"M{at:.1} {TOP}V{:.1}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                TOP + h,
                TOP + h + 18.0,
                number(*t)
            ));
        }
        for t in &y.ticks {
            let at = TOP + (1.0 - y.at(*t)) * h;
            put(format!(
                "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT + w,
                LEFT - 8.0,
                at + 4.0,
                number(*t)
            ));
        }
        put(format!(
            "<path d=\"M{LEFT} {TOP}V{:.1}H{:.1}\" stroke=\"black\" fill=\"none\"/>",
            TOP + h,
            LEFT + w
        ));
        put(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            LEFT + w / 2.0,
            HEIGHT - 14.0,
            escape(&self.x.label)
        ));
        put(format!(
            "<text transform=\"translate(18 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            TOP + h / 2.0,
            escape(&self.y.label)
        ));
        for (i, s) in self.series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let points: Vec<(f64, f64)> = s.points.iter().map(place).collect();
            let points = points
                .into_iter()
                .filter(|p| p.0.is_finite() && p.1.is_finite());
            let points: Vec<_> = points.collect();
            if s.line {
                let mut path = String::new();
                for (j, (x, y)) in points.iter().enumerate() {
                    let verb = if j == 0 { 'M' } else { 'L' };
                    // Writing to a string does not fail.
                    let _ = write!(path, "{verb}{x:.1} {y:.1}");
                }
                put(format!(
                    "<path d=\"{path}\" stroke=\"{colour}\" stroke-width=\"2\" fill=\"none\"/>"
                ));
            }
            if s.dots {
                for (x, y) in &points {
                    put(format!(
                        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"><title>{}</title></circle>",
                        escape(&s.name)
                    ));
                }
            }
            let at = TOP + 14.0 + i as f64 * 16.0;
            put(format!(
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{at:.1}\">{}</text>",
                LEFT + w - 250.0,
                at - 9.0,
                LEFT + w - 235.0,
                escape(&s.name)
            ));
        }
        out.push_str("</svg>\n");
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>, log: bool) -> Chart {
        let axis = |label: &str| Axis {
            label: label.into(),
            log,
        };
        Chart {
            title: "a < b & c".into(),
            x: axis("x"),
            y: axis("y"),
            series: vec![Series {
                name: "\"s\"".into(),
                points,
                line: true,
                dots: true,
            }],
        }
    }

    #[test]
    fn points_lie_on_the_page_and_text_is_escaped() {
        for log in [false, true] {
            let svg = chart(vec![(1.0, 5.0), (4096.0, 0.2)], log).svg().unwrap();
            assert!(svg.contains("a &lt; b &amp; c") && svg.contains("&quot;s&quot;"));
            let circles: Vec<&str> = svg.split("<circle cx=\"").skip(1).collect();
            assert_eq!(circles.len(), 2);
            for c in circles {
                let x: f64 = c.split('"').next().unwrap().parse().unwrap();
                assert!((LEFT..=WIDTH).contains(&x), "{x}");
            }
        }
    }

    #[test]
    fn nothing_makes_no_chart_and_oddities_no_panic() {
        assert!(chart(Vec::new(), false).svg().is_none());
        assert!(chart(vec![(0.0, -1.0)], true).svg().is_none());
        assert!(chart(vec![(f64::NAN, 1.0)], false).svg().is_none());
        assert!(chart(vec![(0.0, 0.0)], false).svg().is_some());
        assert!(chart(vec![(0.0, 0.0), (1.0, 1.0)], true).svg().is_some());
    }

    #[test]
    fn ticks_are_round() {
        let s = Scale::of(false, [0.0, 87.0].into_iter()).unwrap();
        assert_eq!(s.ticks, [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(
            (number(0.25), number(1500.0), number(2e6)),
            ("0.25".into(), "1500".into(), "2e6".into())
        );
    }
}
