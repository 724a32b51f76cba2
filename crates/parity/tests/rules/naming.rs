//! Crates above the registry never name a backend, and never a quant in a
//! literal, a comparison or a pattern.

use super::tokens::{Kind, Token, code};

/// Violations in one file, as `file:line: …`.
pub fn check(file: &str, source: &str, backends: &[&str], schemes: &[&str]) -> Vec<String> {
    let tokens = code(source);
    let mut found = Vec::new();
    for (i, t) in tokens.iter().enumerate() {
        let what = match t.kind {
            Kind::Text if words(&t.text).any(|w| backends.contains(&w)) => "backend",
            Kind::Word if backends.contains(&t.text.as_str()) => "backend",
            Kind::Text if schemes.contains(&t.text.as_str()) => "quant",
            Kind::Word if is_scheme_path(&tokens, i, schemes) && is_tested(&tokens, i) => "quant",
            _ => continue,
        };
        found.push(format!("{file}:{}: names the {what} '{}'", t.line, t.text));
    }
    found
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_'))
}

/// `Scheme::BF16`, whose last word is at `i`.
fn is_scheme_path(tokens: &[Token], i: usize, schemes: &[&str]) -> bool {
    i >= 2
        && tokens[i - 1].is("::")
        && tokens[i - 2].text == "Scheme"
        && schemes.contains(&tokens[i].text.to_lowercase().as_str())
}

/// Beside a comparison, or part of a pattern: before `=>` or `|`, inside
/// `matches!`, or between `if let` and its `=`.
fn is_tested(tokens: &[Token], i: usize) -> bool {
    let is = |j: Option<usize>, list: &[&str]| {
        j.and_then(|j| tokens.get(j))
            .is_some_and(|t| list.iter().any(|p| t.is(p)))
    };
    let mut first = i - 2;
    while first >= 2 && tokens[first - 1].is("::") {
        first -= 2;
    }
    let before = first.checked_sub(1);
    if is(before, &["==", "!=", "|"]) || is(Some(i + 1), &["==", "!=", "|"]) {
        return true;
    }
    // A pattern may continue with `)`, `}`, `,` or a guard before its arrow, a
    // `matches!` opens before it; statements end at `;` and bodies at `{`.
    let arrow = tokens[i + 1..]
        .iter()
        .take_while(|t| !(t.is(";") || t.is("{") || t.is(",")))
        .any(|t| t.is("=>"));
    let opened = tokens[..first]
        .iter()
        .rev()
        .take_while(|t| !(t.is(";") || t.is("{") || t.is("}")))
        .any(|t| t.text == "matches" || t.text == "let");
    let bound = opened
        && tokens[..first]
            .iter()
            .rev()
            .take_while(|t| !(t.is(";") || t.is("{") || t.is("}")))
            .all(|t| !t.is("="));
    arrow || bound
}
