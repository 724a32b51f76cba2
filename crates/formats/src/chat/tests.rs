use serde_json::{Map, Value as Json, json};
use tempfile::TempDir;

use super::*;

fn template(source: &str) -> ChatTemplate {
    try_template(source).unwrap()
}

fn try_template(source: &str) -> Result<ChatTemplate> {
    let config = TokenizerConfig {
        bos_token: Some("<s>".into()),
        eos_token: Some("</s>".into()),
        chat_templates: vec![("default".into(), source.into())],
        chat_template_file: "model/tokenizer_config.json".into(),
        ..Default::default()
    };
    ChatTemplate::with_clock(&config, Arc::new(|| 1_709_210_096))
}

fn hello() -> Vec<ChatMessage> {
    vec![
        ChatMessage::new("system", "Be brief."),
        ChatMessage::new("user", " Hi "),
    ]
}

fn rendered(source: &str, extra: Json) -> String {
    let Json::Object(extra) = extra else {
        panic!("extra is an object")
    };
    template(source).render(&hello(), true, extra).unwrap()
}

#[test]
fn the_demonstration_model() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/ferris-9m");
    let chat = ChatTemplate::from_dir(&dir).unwrap();
    assert_eq!(
        chat.render(&hello(), true, Map::new()).unwrap(),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(
        chat.render(&hello()[1..], false, Map::new()).unwrap(),
        "<|im_start|>user\n Hi <|im_end|>\n"
    );
}

#[test]
fn blocks_are_trimmed_as_transformers_does() {
    let source =
        "{{ bos_token }}\n  {% for m in messages %}\n  {{ m.role }}\n  {% endfor %}\nend\n";
    assert_eq!(rendered(source, json!({})), "<s>\n  system\n  user\nend");
}

#[test]
fn python_methods_namespaces_and_loop_controls() {
    let source = "{%- set ns = namespace(n=0) -%}\
        {%- for m in messages -%}\
        {%- if m['role'].startswith('sys') -%}{%- continue -%}{%- endif -%}\
        {%- set ns.n = ns.n + 1 -%}[{{ m['content'].strip() | upper }}]\
        {%- break -%}{%- endfor -%}{{ ns.n }}{{ messages[::-1][0].role }}\
        {{ messages[0].items() | length }}";
    assert_eq!(rendered(source, json!({})), "[HI]1user2");
}

#[test]
fn values_are_spelled_as_python_does() {
    let extra = json!({"t": true, "n": null, "l": ["a", "it's", 1, false], "d": {"k": null}});
    assert_eq!(
        rendered(
            "{{ t }} {{ n }} {{ l }} {{ d }} {{ 1.0 }} {{ missing }}|",
            extra
        ),
        "True None ['a', \"it's\", 1, False] {'k': None} 1.0 |"
    );
}

#[test]
fn none_is_not_iterable_and_converts_to_text_as_in_python() {
    let source = "{% if tools is iterable and tools | length > 0 %}tools{% endif %}\
                  {{ 'ab' is iterable }} {{ messages is iterable }} {{ 3 is iterable }} \
                  {{ [none, true] | string ~ '!' }}";
    assert_eq!(rendered(source, json!({})), "True True False [None, True]!");
}

#[test]
fn json_has_pythons_spaces() {
    let extra = json!({"v": {"b": [1, "é<'>", null], "a": {}}});
    assert_eq!(
        rendered("{{ v | tojson }}", extra.clone()),
        r#"{"b": [1, "é<'>", null], "a": {}}"#
    );
    assert_eq!(
        rendered("{{ v | tojson(indent=2) }}", extra.clone()),
        "{\n  \"b\": [\n    1,\n    \"é<'>\",\n    null\n  ],\n  \"a\": {}\n}"
    );
    assert_eq!(
        rendered(
            "{{ v | tojson(sort_keys=true, ensure_ascii=true) }}",
            extra.clone()
        ),
        r#"{"a": {}, "b": [1, "\u00e9<'>", null]}"#
    );
    assert_eq!(
        rendered("{{ v | tojson(separators=(',', ':')) }}", extra),
        r#"{"b":[1,"é<'>",null],"a":{}}"#
    );
}

#[test]
fn absent_tools_are_none_and_extra_reaches_the_template() {
    let source = "{% if tools is none %}no tools{% else %}{{ tools[0].name }}{% endif %} \
                  {% if enable_thinking is defined and not enable_thinking %}quiet{% endif %}";
    assert_eq!(rendered(source, json!({})), "no tools ");
    let extra = json!({"tools": [{"name": "clock"}], "enable_thinking": false});
    assert_eq!(rendered(source, extra), "clock quiet");
}

#[test]
fn clock_and_generation_blocks() {
    let source = "{{ strftime_now('%d %b %Y') }}{% generation %}x{% endgeneration %}";
    assert_eq!(rendered(source, json!({})), "29 Feb 2024x");
}

#[test]
fn message_fields_reach_the_template() {
    let message: ChatMessage = serde_json::from_value(
        json!({"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}),
    )
    .unwrap();
    let text =
        template("{{ messages[0].tool_calls[0].name }}").render(&[message], false, Map::new());
    assert_eq!(text.unwrap(), "f");
}

#[test]
fn refusals_and_failures_are_errors() {
    let error = |source: &str| {
        let made = try_template(source).and_then(|t| t.render(&hello(), true, Map::new()));
        let text = made.unwrap_err().to_string();
        assert!(text.contains("model/tokenizer_config.json"), "{text}");
        assert!(text.lines().count() <= 3, "{text}");
        text
    };
    let refused = error("{{ raise_exception('roles must alternate') }}");
    assert!(
        refused.contains("refuses this conversation: roles must alternate"),
        "{refused}"
    );
    assert!(error("a\n{% for %}").contains("line 2"));
    error("{{ nothing.at.all }}");
    error("{{ 'x' | no_such_filter }}");
    error("{{ 'x'.no_such_method() }}");
    error("{{ strftime_now('%Q') }}");
}

#[test]
fn endless_templates_end() {
    let source = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    assert!(template(source).render(&hello(), true, Map::new()).is_err());
    let source = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
    assert!(template(source).render(&hello(), true, Map::new()).is_err());
}

fn from_files(files: &[(&str, &str)]) -> Result<ChatTemplate> {
    let dir = TempDir::new().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    ChatTemplate::from_dir(dir.path())
}

#[test]
fn where_templates_come_from() {
    let plain = |chat: &ChatTemplate, extra: Json| {
        chat.render(&[], false, extra.as_object().unwrap().clone())
            .unwrap()
    };
    let named = r#"{"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}"#;
    let chat = from_files(&[("tokenizer_config.json", named)]).unwrap();
    assert_eq!(plain(&chat, json!({})), "D");
    assert_eq!(plain(&chat, json!({"tools": []})), "T");
    let chat = from_files(&[
        ("tokenizer_config.json", r#"{"chat_template": "A"}"#),
        ("chat_template.jinja", "B"),
    ])
    .unwrap();
    assert_eq!(plain(&chat, json!({})), "B");
    assert_eq!(plain(&chat, json!({"tools": []})), "B");
}

#[test]
fn models_without_a_template_say_so() {
    for files in [&[][..], &[("tokenizer_config.json", "{}")]] {
        let error = from_files(files).unwrap_err();
        assert!(matches!(error, Error::NoChatTemplate { .. }), "{error}");
        assert!(error.to_string().contains("no chat template"), "{error}");
    }
    for text in [
        r#"{"chat_template": 3}"#,
        r#"{"chat_template": [{"name": "x"}]}"#,
    ] {
        let error = from_files(&[("tokenizer_config.json", text)]).unwrap_err();
        assert!(matches!(error, Error::FieldInvalid { .. }), "{error}");
    }
}
