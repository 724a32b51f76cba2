//! Stop strings over streamed text, against the whole text at once.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use sampling::{EmptyStop, Released, Stop, StopMatcher};

/// Where the text is cut, and by which stop string, by looking at every ending of it.
fn naive(text: &str, stops: &[String]) -> Option<(usize, usize)> {
    (0..=text.len())
        .filter(|&end| text.is_char_boundary(end))
        .find_map(|end| {
            let ending = (0..stops.len()).filter(|&i| text[..end].ends_with(&stops[i]));
            let longest = ending.max_by_key(|&i| (stops[i].len(), usize::MAX - i))?;
            Some((end - stops[longest].len(), longest))
        })
}

/// How much of `text` may be shown: all but the longest ending that begins a stop string.
fn showable(text: &str, stops: &[String]) -> usize {
    (0..=text.len())
        .filter(|&from| text.is_char_boundary(from))
        .find(|&from| stops.iter().any(|s| s.starts_with(&text[from..])))
        .unwrap_or(text.len())
}

/// Splits at pseudo-random character boundaries.
fn pieces(text: &str, mut seed: u64) -> Vec<&str> {
    let mut out = Vec::new();
    let mut from = 0;
    for (at, _) in text.char_indices() {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        if seed >> 63 == 1 {
            out.push(&text[from..at]);
            from = at;
        }
    }
    out.push(&text[from..]);
    out
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3000,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// A small alphabet, so that stop strings overlap themselves and each other.
    #[test]
    fn streaming_equals_a_search_of_the_whole_text(
        text in "[abé→]{0,40}",
        stops in proptest::collection::vec("[abé→]{1,5}", 0..4),
        seed in any::<u64>(),
    ) {
        let mut matcher = StopMatcher::new(&stops, &[]).unwrap();
        let (mut shown, mut seen) = (String::new(), String::new());
        let mut stop = None;
        for piece in pieces(&text, seed) {
            let released = matcher.push(piece);
            shown.push_str(&released.text);
            seen.push_str(piece);
            stop = released.stop;
            if stop.is_some() {
                break;
            }
            prop_assert_eq!(shown.len(), showable(&seen, &stops), "held back too much or too little");
        }
        match naive(&text, &stops) {
            Some((cut, index)) => {
                prop_assert_eq!(shown, &text[..cut]);
                prop_assert_eq!(stop, Some(Stop::Text { index }));
                prop_assert_eq!(matcher.stopped(), stop);
                let after = Released { text: String::new(), stop };
                prop_assert_eq!(matcher.push("ab"), after.clone());
                prop_assert_eq!(matcher.push_token(0, "ab"), after);
                prop_assert_eq!(matcher.finish(), "");
            }
            None => {
                prop_assert_eq!(stop, None);
                shown.push_str(&matcher.finish());
                prop_assert_eq!(shown, text);
            }
        }
    }
}

fn released(text: &str, stop: Option<Stop>) -> Released {
    Released {
        text: text.to_owned(),
        stop,
    }
}

#[test]
fn stop_string_across_pieces() {
    let mut matcher = StopMatcher::new(&["</answer>", "\n\n"], &[]).unwrap();
    assert_eq!(matcher.push("42 </"), released("42 ", None));
    assert_eq!(matcher.push("ans"), released("", None));
    assert_eq!(matcher.push("wers\n"), released("</answers", None));
    assert_eq!(matcher.push("x</answer"), released("\nx", None));
    let stop = Some(Stop::Text { index: 0 });
    assert_eq!(matcher.push("> more"), released("", stop));
    assert_eq!(matcher.finish(), "");
    // As new: the other one now, and text before it.
    assert_eq!(
        matcher.push("a\n\nb"),
        released("a", Some(Stop::Text { index: 1 }))
    );
}

#[test]
fn the_first_to_be_complete_wins_however_the_text_arrives() {
    let stops = ["abcdef", "cd"];
    for text in [
        &["abcdef"][..],
        &["a", "b", "c", "d", "e", "f"],
        &["abc", "def"],
    ] {
        let mut matcher = StopMatcher::new(&stops, &[]).unwrap();
        let mut shown = String::new();
        for piece in text {
            shown.push_str(&matcher.push(piece).text);
        }
        assert_eq!(shown, "ab");
        assert_eq!(matcher.stopped(), Some(Stop::Text { index: 1 }));
    }
    // Complete at the same place: the longer one.
    let mut matcher = StopMatcher::new(&["d", "bcd", "bcd"], &[]).unwrap();
    assert_eq!(
        matcher.push("abcd"),
        released("a", Some(Stop::Text { index: 1 }))
    );
}

#[test]
fn stop_tokens_release_what_was_held_but_not_their_own_text() {
    let mut matcher = StopMatcher::new(&["END"], &[9, 2, 9]).unwrap();
    assert_eq!(matcher.push_token(5, "the E"), released("the ", None));
    let stop = Some(Stop::Token { token: 9 });
    assert_eq!(matcher.push_token(9, "</s>"), released("E", stop));
    assert_eq!(matcher.push_token(5, "more"), released("", stop));
    assert_eq!(matcher.stopped(), stop);
}

#[test]
fn without_stop_strings_everything_passes() {
    let mut matcher = StopMatcher::new::<&str>(&[], &[]).unwrap();
    assert_eq!(matcher.push_token(1, "héllo"), released("héllo", None));
    assert_eq!(matcher.push(""), released("", None));
    assert_eq!(matcher.finish(), "");
}

#[test]
fn an_empty_stop_string_is_refused() {
    let error = StopMatcher::new(&["a", ""], &[]).unwrap_err();
    assert_eq!(error, EmptyStop { index: 1 });
    assert!(error.to_string().starts_with("stop string 1 is empty"));
}
