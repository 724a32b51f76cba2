//! Checks a JSON value against a JSON Schema, as far as `benchmarks/schema.json`
//! uses that language. A keyword that is not known here is an error, not ignored.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The schema of the artifacts that this program writes.
pub const ARTIFACT: &str = include_str!("../../../benchmarks/schema.json");

/// Problems kept; a file that is no artifact at all has hundreds.
const MOST: usize = 20;

/// Where a value does not hold to the schema, each with its place; none if it does.
///
/// Errors: a schema that is damaged or uses what is not known here.
pub fn problems(schema: &Value, value: &Value) -> Result<Vec<String>> {
    let mut check = Check {
        root: schema,
        found: Vec::new(),
    };
    check.value(schema, value, "$")?;
    check.found.truncate(MOST);
    Ok(check.found)
}

struct Check<'s> {
    root: &'s Value,
    found: Vec<String>,
}

impl<'s> Check<'s> {
    fn say(&mut self, at: &str, what: String) {
        self.found.push(format!("{at}: {what}"));
    }

    fn value(&mut self, schema: &'s Value, value: &Value, at: &str) -> Result<()> {
        let rules = match schema {
            Value::Bool(true) => return Ok(()),
            Value::Object(rules) => rules,
            _ => bail!("a schema for {at} is {schema}"),
        };
        for (keyword, rule) in rules {
            match keyword.as_str() {
                "$schema" | "$id" | "$defs" | "title" | "description" => {}
                "$ref" => {
                    let name = rule.as_str().and_then(|r| r.strip_prefix("#/$defs/"));
                    let target = name.and_then(|n| self.root.get("$defs")?.get(n));
                    let target = target.with_context(|| format!("the schema has no {rule}"))?;
                    self.value(target, value, at)?;
                }
                "anyOf" => {
                    let options = rule.as_array().context("anyOf is a list")?;
                    let mut all = Vec::new();
                    for option in options {
                        let mut one = Check {
                            root: self.root,
                            found: Vec::new(),
                        };
                        one.value(option, value, at)?;
                        all.push(one.found);
                    }
                    // The option that was meant is the one that nearly fits.
                    if let Some(nearest) = all.into_iter().min_by_key(Vec::len) {
                        self.found.extend(nearest);
                    }
                }
                "type" => {
                    let one = std::slice::from_ref(rule);
                    let names = rule.as_array().map_or(one, Vec::as_slice);
                    if !names.iter().filter_map(Value::as_str).any(|n| is(n, value)) {
                        self.say(at, format!("is {}, wanted {rule}", excerpt(value)));
                    }
                }
                "const" if rule != value => {
                    self.say(at, format!("is {}, wanted {rule}", excerpt(value)));
                }
                "enum" if !rule.as_array().is_some_and(|all| all.contains(value)) => {
                    self.say(at, format!("is {}, wanted one of {rule}", excerpt(value)));
                }
                "const" | "enum" => {}
                "minimum" | "maximum" => {
                    let bound = rule.as_f64().context("a bound is a number")?;
                    let outside = value.as_f64().is_some_and(|v| match keyword.as_str() {
                        "minimum" => v < bound,
                        _ => v > bound,
                    });
                    if outside {
                        self.say(at, format!("is {value}, its {keyword} is {rule}"));
                    }
                }
                "minItems" => {
                    let least = rule.as_u64().context("minItems is a number")? as usize;
                    if value.as_array().is_some_and(|a| a.len() < least) {
                        self.say(at, format!("has fewer than {least} items"));
                    }
                }
                "items" => {
                    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.value(rule, item, &format!("{at}[{i}]"))?;
                    }
                }
                "required" => {
                    let names = rule.as_array().context("required is a list")?;
                    for name in names.iter().filter_map(Value::as_str) {
                        if value.as_object().is_some_and(|o| !o.contains_key(name)) {
                            self.say(at, format!("has no `{name}`"));
                        }
                    }
                }
                "properties" => {
                    let known = rule.as_object().context("properties are named")?;
                    for (name, rule) in known {
                        if let Some(inner) = value.get(name) {
                            self.value(rule, inner, &format!("{at}.{name}"))?;
                        }
                    }
                }
                "additionalProperties" => {
                    let known = rules.get("properties");
                    for (name, inner) in value.as_object().into_iter().flatten() {
                        if known.is_some_and(|k| k.get(name).is_some()) {
                            continue;
                        }
                        match rule {
                            Value::Bool(false) => {
                                self.say(
                                    at,
                                    format!("has `{}`, which is unknown", excerpt_of(name)),
                                );
                            }
                            rule => self.value(rule, inner, &format!("{at}.{name}"))?,
                        }
                    }
                }
                other => bail!("the schema uses `{other}`, which is not checked here"),
            }
        }
        Ok(())
    }
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        _ => false,
    }
}

fn excerpt(value: &Value) -> String {
    excerpt_of(&value.to_string())
}

fn excerpt_of(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

/// Checks a file against the artifacts' schema: its problems.
pub fn check_file(path: &Path) -> Result<Vec<String>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let value: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
    let schema: Value = serde_json::from_str(ARTIFACT).context("the built-in schema")?;
    problems(&schema, &value)
}

/// The JSON files that paths name: themselves, or those in a folder.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in paths {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path)
            .with_context(|| format!("cannot read the folder {}", path.display()))?;
        let mut found: Vec<PathBuf> = entries
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| p.extension().is_some_and(|e| e == "json"))
            .collect();
        found.sort();
        all.append(&mut found);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(schema: Value, value: Value) -> Vec<String> {
        problems(&schema, &value).expect("a schema")
    }

    #[test]
    fn every_keyword_can_fail_and_hold() {
        let defs = json!({"pair": {"type": "array", "minItems": 2, "items": {"type": "integer"}}});
        let with = |schema: Value| {
            let mut schema = schema;
            schema["$defs"] = defs.clone();
            schema
        };
        for (schema, good, bad) in [
            (json!({"type": "string"}), json!("x"), json!(1)),
            (json!({"type": ["number", "null"]}), json!(null), json!("x")),
            (json!({"type": "integer"}), json!(3), json!(3.5)),
            (json!({"const": "a"}), json!("a"), json!("b")),
            (json!({"enum": ["a", "b"]}), json!("b"), json!("c")),
            (json!({"minimum": 0}), json!(0), json!(-0.1)),
            (json!({"maximum": 1}), json!(1), json!(1.1)),
            (json!({"$ref": "#/$defs/pair"}), json!([1, 2]), json!([1])),
            (
                json!({"$ref": "#/$defs/pair"}),
                json!([1, 2]),
                json!([1, "2"]),
            ),
            (json!({"required": ["a"]}), json!({"a": 1}), json!({"b": 1})),
            (
                json!({"properties": {"a": {"type": "null"}}, "additionalProperties": false}),
                json!({"a": null}),
                json!({"b": null}),
            ),
            (
                json!({"additionalProperties": {"type": "string"}}),
                json!({"a": "x"}),
                json!({"a": 1}),
            ),
            (
                json!({"anyOf": [{"$ref": "#/$defs/pair"}, {"type": "null"}]}),
                json!(null),
                json!([1]),
            ),
        ] {
            assert_eq!(
                found(with(schema.clone()), good),
                Vec::<String>::new(),
                "{schema}"
            );
            assert!(!found(with(schema.clone()), bad).is_empty(), "{schema}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_ignored() {
        for schema in [
            json!({"pattern": "x"}),
            json!({"$ref": "#/$defs/none"}),
            json!(3),
        ] {
            assert!(problems(&schema, &json!("x")).is_err(), "{schema}");
        }
    }

    #[test]
    fn places_are_named() {
        let schema = json!({"properties": {"a": {"items": {"type": "null"}}}});
        let said = found(schema, json!({"a": [null, 7]}));
        assert_eq!(said, ["$.a[1]: is 7, wanted \"null\""]);
    }
}
