//! Where Jinja in Python and Jinja here would print different text.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// Prints a value as Python's `str` does.
pub(super) fn format_value(out: &mut Output, state: &State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Bool | ValueKind::None | ValueKind::Seq | ValueKind::Map => {
            Ok(out.write_str(&string(value)?)?)
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// Python's `str` of a value.
pub(super) fn string(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Bool | ValueKind::None | ValueKind::Seq | ValueKind::Map => {
            let mut text = String::new();
            write_repr(&mut text, value)?;
            Ok(text)
        }
        _ => Ok(value.to_string()),
    }
}

/// Jinja here can loop over none as if it were empty; templates ask in order to tell them apart.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Appends Python's `repr` of a value.
fn write_repr(out: &mut String, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => write_str_repr(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            out.push('[');
            for (i, item) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(out, &item)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(out, &key)?;
                out.push_str(": ");
                write_repr(out, &value.get_item(&key)?)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

fn write_str_repr(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// `json.dumps(value, ensure_ascii=False)`, with its spaces, and its `indent` and `sort_keys`.
pub(super) fn tojson(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let sort_keys: Option<bool> = kwargs.get("sort_keys")?;
    let ensure_ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    kwargs.assert_all_used()?;
    let bad = |what: String| Error::new(ErrorKind::InvalidOperation, what);
    let mut json = serde_json::to_value(value).map_err(|e| bad(format!("tojson: {e}")))?;
    if sort_keys == Some(true) {
        json.sort_all_objects();
    }
    let text = match (indent, separators.as_deref()) {
        (Some(n), _) => {
            let spaces = " ".repeat(n.min(64));
            serialize(&json, PrettyFormatter::with_indent(spaces.as_bytes()))
        }
        (None, None) => serialize(
            &json,
            Spaced {
                item: ", ",
                key: ": ",
            },
        ),
        (None, Some([item, key])) => serialize(&json, Spaced { item, key }),
        (None, Some(_)) => return Err(bad("tojson: separators must be two strings".into())),
    };
    Ok(Value::from(if ensure_ascii == Some(true) {
        escape_non_ascii(&text)
    } else {
        text
    }))
}

fn serialize(json: &serde_json::Value, formatter: impl Formatter) -> String {
    let mut out = Vec::new();
    // Writing JSON values to memory has no way to fail.
    drop(json.serialize(&mut Serializer::with_formatter(&mut out, formatter)));
    String::from_utf8(out).unwrap_or_default()
}

fn escape_non_ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

struct Spaced<'a> {
    item: &'a str,
    key: &'a str,
}

impl Formatter for Spaced<'_> {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        out.write_all(if first { "" } else { self.item }.as_bytes())
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        out.write_all(if first { "" } else { self.item }.as_bytes())
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
    ) -> std::io::Result<()> {
        out.write_all(self.key.as_bytes())
    }
}

/// Templates for training mark what the assistant said with `{% generation %}` blocks, which
/// change nothing in the text: they become blocks that are always taken.
pub(super) fn plain_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open);
        out.push_str(before);
        let Some(close) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let inside = &tag[2..close];
        let word = inside.trim_matches(['-', '+', ' ', '\t', '\n', '\r']);
        let replacement = match word {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        match replacement {
            Some(new) => {
                out.push_str("{%");
                out.push_str(&inside.replacen(word, new, 1));
                out.push_str("%}");
                rest = &tag[close + 2..];
            }
            None => {
                out.push_str("{%");
                rest = &tag[2..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// `time.strftime` of a moment in seconds since 1970, in UTC and English: the machine's time zone
/// is not consulted, so that one conversation gives one text everywhere.
pub(super) fn strftime(format: &str, unix: i64) -> Result<String, Error> {
    const DAYS: [&str; 7] = [
        "Sunday",
        "Monday",
        "Tuesday",
        "Wednesday",
        "Thursday",
        "Friday",
        "Saturday",
    ];
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let date = Date::from_days(unix.div_euclid(86400));
    let second_of_day = unix.rem_euclid(86400);
    let (hour, minute, second) = (
        second_of_day / 3600,
        second_of_day / 60 % 60,
        second_of_day % 60,
    );
    let hour12 = (hour + 11) % 12 + 1;
    let weekday = DAYS[date.weekday];
    let month = MONTHS[date.month as usize - 1];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let (plain, code) = match chars.next() {
            Some('-') => (true, chars.next()),
            code => (false, code),
        };
        let number = |value: i64, width: usize| {
            if plain {
                value.to_string()
            } else {
                format!("{value:0width$}")
            }
        };
        match code {
            Some('Y') => out.push_str(&date.year.to_string()),
            Some('y') => out.push_str(&number(date.year.rem_euclid(100), 2)),
            Some('m') => out.push_str(&number(date.month, 2)),
            Some('d') => out.push_str(&number(date.day, 2)),
            Some('e') => out.push_str(&format!("{:2}", date.day)),
            Some('j') => out.push_str(&number(date.day_of_year, 3)),
            Some('H') => out.push_str(&number(hour, 2)),
            Some('I') => out.push_str(&number(hour12, 2)),
            Some('M') => out.push_str(&number(minute, 2)),
            Some('S') => out.push_str(&number(second, 2)),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('A') => out.push_str(weekday),
            Some('a') => out.push_str(&weekday[..3]),
            Some('B') => out.push_str(month),
            Some('b' | 'h') => out.push_str(&month[..3]),
            Some('F') => out.push_str(&format!("{}-{:02}-{:02}", date.year, date.month, date.day)),
            Some('T') => out.push_str(&format!("{hour:02}:{minute:02}:{second:02}")),
            Some('Z') => out.push_str("UTC"),
            Some('z') => out.push_str("+0000"),
            Some('%') => out.push('%'),
            other => {
                let code = other.map(String::from).unwrap_or_default();
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("strftime_now: %{code} is not supported"),
                ));
            }
        }
    }
    Ok(out)
}

struct Date {
    year: i64,
    month: i64,
    day: i64,
    day_of_year: i64,
    weekday: usize,
}

impl Date {
    /// The Gregorian date that is `days` after 1970-01-01.
    fn from_days(days: i64) -> Self {
        let leap = |y: i64| y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
        // Whole cycles of 400 years first, so that the loops below are short.
        let cycle = days.div_euclid(146_097);
        let mut left = days.rem_euclid(146_097);
        let mut year = 1970 + 400 * cycle;
        while left >= 365 + i64::from(leap(year)) {
            left -= 365 + i64::from(leap(year));
            year += 1;
        }
        let day_of_year = left + 1;
        let february = 28 + i64::from(leap(year));
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if left < length {
                break;
            }
            left -= length;
            month += 1;
        }
        Self {
            year,
            month,
            day: left + 1,
            day_of_year,
            // 1970-01-01 was a Thursday.
            weekday: (days + 4).rem_euclid(7) as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let at = |format, unix| strftime(format, unix).unwrap();
        assert_eq!(at("%d %b %Y", 0), "01 Jan 1970");
        assert_eq!(
            at("%Y-%m-%d %H:%M:%S %A", 1_709_210_096),
            "2024-02-29 12:34:56 Thursday"
        );
        assert_eq!(
            at("%-d %B %y, %I %p, day %j", 4_102_444_799),
            "31 December 99, 11 PM, day 365"
        );
        assert_eq!(at("%F %T", -1), "1969-12-31 23:59:59");
        assert_eq!(at("100%%", 0), "100%");
        assert!(strftime("%Q", 0).is_err());
        assert!(strftime("%", 0).is_err());
    }

    #[test]
    fn generation_tags_become_plain_blocks() {
        assert_eq!(
            plain_generation_tags("a{%- generation -%}b{% endgeneration %}{% if x %}{{ '{%' }}"),
            "a{%- if true -%}b{% endif %}{% if x %}{{ '{%' }}"
        );
    }
}
