use super::*;

fn class(layer: &str, rows: usize) -> Class {
    Class {
        layer: layer.into(),
        quant: "q4_k".into(),
        rows,
        matrix: Some((64, 32)),
    }
}

/// Nodes, layer, variant, layout, seconds.
type Step = (
    &'static [u32],
    &'static str,
    &'static str,
    Option<&'static str>,
    f64,
);

const PLAIN: Option<&str> = Some(ROW_MAJOR);
const GROUPED: Option<&str> = Some("grouped");

fn plan(steps: &[Step]) -> Timed {
    let one = |s: &Step| TimedStep {
        nodes: s.0.iter().map(|n| NodeId(*n)).collect(),
        class: class(s.1, 1),
        variant: s.2.to_string(),
        layout: s.3,
        seconds: s.4,
    };
    Timed {
        depth: 0,
        steps: steps.iter().map(one).collect(),
    }
}

fn chosen(rounds: &[Vec<Timed>]) -> Vec<(String, String)> {
    let picks = choose(rounds, 0.05, &mut |_| {});
    picks.into_iter().map(|p| (p.layer, p.variant)).collect()
}

#[test]
fn a_faster_variant_is_picked_only_beyond_the_margin() {
    let first = || vec![plan(&[(&[0], "linear", "a", PLAIN, 10.0)])];
    let with = |t| vec![plan(&[(&[0], "linear", "b", PLAIN, t)])];
    assert_eq!(chosen(&[first(), with(9.8)]), []);
    let won = [("linear".to_string(), "b".to_string())];
    assert_eq!(chosen(&[first(), with(8.0)]), won);
    assert_eq!(chosen(&[first(), with(12.0)]), []);
}

#[test]
fn a_pick_must_win_at_every_depth() {
    let at = |depth, name, t| Timed {
        depth,
        ..plan(&[(&[0], "linear", name, PLAIN, t)])
    };
    let first = || vec![at(0, "a", 10.0), at(4096, "a", 90.0)];
    let shallow = vec![at(0, "b", 5.0), at(4096, "b", 95.0)];
    assert_eq!(chosen(&[first(), shallow]), []);
    let both = vec![at(0, "b", 9.0), at(4096, "b", 60.0)];
    let won = [("linear".to_string(), "b".to_string())];
    assert_eq!(chosen(&[first(), both]), won);
}

#[test]
fn what_is_too_brief_for_the_clock_wins_nothing() {
    let first = vec![plan(&[(&[0], "linear", "a", PLAIN, 0.0)])];
    let other = vec![plan(&[(&[0], "linear", "b", PLAIN, 0.0)])];
    assert_eq!(chosen(&[first, other]), []);
}

#[test]
fn a_composite_that_loses_to_its_chain_is_vetoed() {
    let first = vec![plan(&[(&[0, 1], "add+linear", "f", PLAIN, 10.0)])];
    let chain = vec![plan(&[
        (&[0], "add", "p", PLAIN, 1.0),
        (&[1], "linear", "p", PLAIN, 5.0),
    ])];
    let none = [("add+linear".to_string(), NONE.to_string())];
    assert_eq!(chosen(&[first, chain]), none);
}

#[test]
fn a_chain_may_have_links_without_matrices() {
    let first = vec![plan(&[(&[0, 1, 2], "x+x+mul", "f", GROUPED, 10.0)])];
    let chain = vec![plan(&[
        (&[0], "x", "p", GROUPED, 3.0),
        (&[1], "x", "p", GROUPED, 3.0),
        (&[2], "mul", "p", None, 1.0),
    ])];
    let none = [("x+x+mul".to_string(), NONE.to_string())];
    assert_eq!(chosen(&[first, chain]), none);
    let first = vec![plan(&[(&[0], "mul", "a", None, 10.0)])];
    let other = vec![plan(&[(&[0], "mul", "b", None, 5.0)])];
    let b = [("mul".to_string(), "b".to_string())];
    assert_eq!(chosen(&[first, other]), b);
}

#[test]
fn what_covers_other_nodes_is_not_compared() {
    let p = plan(&[
        (&[0, 1], "x", "f", PLAIN, 3.0),
        (&[2], "y", "p", PLAIN, 4.0),
    ]);
    let nodes = |list: &[u32]| list.iter().map(|n| NodeId(*n)).collect::<Vec<_>>();
    assert_eq!(p.cover(&nodes(&[0, 1, 2])).map(|c| c.0), Some(7.0));
    assert_eq!(p.cover(&nodes(&[1, 2])), None);
    assert_eq!(p.cover(&nodes(&[2, 3])), None);
}

#[test]
fn picks_are_written_as_they_are_read() {
    let tuned = Tuned {
        backend: "b".into(),
        device: "A \"quoted\" device\n".into(),
        pick: vec![
            class("linear", 2).pick("v"),
            class("add+linear", 1).pick(NONE),
        ],
    };
    let read = Tuned::parse(&text(&tuned, "m")).unwrap();
    assert_eq!(
        (&read.backend, &read.device),
        (&tuned.backend, &tuned.device)
    );
    let found = read.variant("linear", "q4_k", 2, Some((64, 32)));
    assert_eq!(found, Some("v"));
    assert_eq!(read.variant("linear", "q4_k", 1, Some((64, 32))), None);
    let again = merged(
        read,
        Tuned {
            backend: tuned.backend.clone(),
            device: tuned.device.clone(),
            pick: vec![class("linear", 2).pick("w")],
        },
    );
    assert_eq!(again.pick.len(), 2);
    assert_eq!(
        again.variant("linear", "q4_k", 2, Some((64, 32))),
        Some("w")
    );
    assert_eq!(
        slug("Intel(R) Xeon(R) Processor"),
        "intel-r-xeon-r-processor"
    );
}
