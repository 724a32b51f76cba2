//! Just enough of Rust's lexical grammar to tell code from comments, strings and
//! test modules.

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Word,
    /// Content of a string literal, escapes left as written.
    Text,
    Punct,
}

#[derive(Clone, Debug)]
pub struct Token {
    pub kind: Kind,
    pub text: String,
    pub line: usize,
}

impl Token {
    pub fn is(&self, punct: &str) -> bool {
        self.kind == Kind::Punct && self.text == punct
    }
}

/// The tokens of a source file without comments and `#[cfg(test)]` items.
pub fn code(source: &str) -> Vec<Token> {
    without_tests(lex(source))
}

fn lex(source: &str) -> Vec<Token> {
    let s: Vec<char> = source.chars().collect();
    let at = |i: usize| s.get(i).copied().unwrap_or('\0');
    let mut out: Vec<Token> = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < s.len() {
        let start = i;
        let mut token = None;
        match s[i] {
            '/' if at(i + 1) == '/' => {
                while i < s.len() && s[i] != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                while i < s.len() {
                    match (s[i], at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            '"' => {
                i += 1;
                while i < s.len() && s[i] != '"' {
                    i += if s[i] == '\\' { 2 } else { 1 };
                }
                token = Some((Kind::Text, start + 1..i.min(s.len())));
                i += 1;
            }
            // 'x', '\n' and the like; a lifetime has no closing quote there.
            '\'' if at(i + 1) == '\\' => {
                i += 3;
                while i < s.len() && s[i] != '\'' {
                    i += 1;
                }
                i += 1;
            }
            '\'' if at(i + 2) == '\'' => i += 3,
            c if c.is_alphanumeric() || c == '_' => {
                while at(i).is_alphanumeric() || at(i) == '_' {
                    i += 1;
                }
                let word: String = s[start..i].iter().collect();
                let mut hashes = 0;
                while at(i + hashes) == '#' {
                    hashes += 1;
                }
                let raw = matches!(word.as_str(), "r" | "br" | "cr");
                if raw && at(i + hashes) == '"' {
                    let first = i + hashes + 1;
                    let closes = |j: usize| s[j] == '"' && (1..=hashes).all(|h| at(j + h) == '#');
                    let last = (first..s.len()).find(|j| closes(*j)).unwrap_or(s.len());
                    token = Some((Kind::Text, first..last));
                    i = last + 1 + hashes;
                } else {
                    token = Some((Kind::Word, start..i));
                }
            }
            c if c.is_whitespace() => i += 1,
            c => {
                let pair = matches!(
                    (c, at(i + 1)),
                    (':', ':') | ('=', '>') | ('=', '=') | ('!', '=')
                );
                i += if pair { 2 } else { 1 };
                token = Some((Kind::Punct, start..i));
            }
        }
        if let Some((kind, range)) = token {
            out.push(Token {
                kind,
                text: s[range].iter().collect(),
                line,
            });
        }
        line += s[start..i.min(s.len())]
            .iter()
            .filter(|c| **c == '\n')
            .count();
    }
    out
}

/// Drops each item that follows `#[cfg(test)]`, to its semicolon or closing brace.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut out = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let marked = tokens.len() - i >= MARK.len()
            && MARK
                .iter()
                .zip(&tokens[i..])
                .all(|(m, t)| t.kind != Kind::Text && t.text == *m);
        if !marked {
            out.push(tokens[i].clone());
            i += 1;
            continue;
        }
        i += MARK.len();
        let mut depth = 0;
        while i < tokens.len() {
            let t = &tokens[i];
            i += 1;
            if t.is("{") {
                depth += 1;
            } else if t.is("}") {
                depth -= 1;
            }
            if depth == 0 && (t.is("}") || t.is(";")) {
                break;
            }
        }
    }
    out
}
