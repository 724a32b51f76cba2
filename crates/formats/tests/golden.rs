//! Tokenizer and chat templates against what transformers produced (fixtures/golden, made by
//! fixtures/generate.py).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use formats::{ChatMessage, ChatTemplate, IncrementalDetokenizer, Tokenizer, TokenizerConfig};
use serde::Deserialize;
use serde_json::Map;

#[derive(Deserialize)]
struct Golden {
    tokenizer: Vec<Encoded>,
    chat_template: Vec<Chat>,
    other_templates: Vec<Other>,
}

#[derive(Deserialize)]
struct Encoded {
    text: String,
    ids: Vec<u32>,
    decoded: String,
    decoded_skip_special: String,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<ChatMessage>,
    add_generation_prompt: bool,
    rendered: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Other {
    template: String,
    messages: Vec<ChatMessage>,
    add_generation_prompt: bool,
    bos_token: String,
    rendered: Option<String>,
    error: Option<String>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn golden() -> Golden {
    let path = fixtures().join("golden/ferris-9m-tokenizer.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::from_dir(&fixtures().join("models/ferris-9m")).unwrap())
}

#[test]
fn ids_and_text() {
    let (tokenizer, cases) = (tokenizer(), golden().tokenizer);
    assert!(cases.len() > 40);
    for case in cases {
        let text = &case.text;
        assert_eq!(tokenizer.encode(text, false).unwrap(), case.ids, "{text:?}");
        for (skip, wanted) in [(false, &case.decoded), (true, &case.decoded_skip_special)] {
            assert_eq!(&tokenizer.decode(&case.ids, skip), wanted, "{text:?}");
            let mut stream = IncrementalDetokenizer::new(Arc::clone(&tokenizer), skip);
            let mut streamed: String = case.ids.iter().map(|&id| stream.push(id)).collect();
            streamed.push_str(&stream.flush());
            assert_eq!(&streamed, wanted, "{text:?}");
        }
    }
}

#[test]
fn conversations_of_the_demonstration_model() {
    let (tokenizer, cases) = (tokenizer(), golden().chat_template);
    let chat = ChatTemplate::from_config(tokenizer.config()).unwrap();
    assert!(cases.len() > 5);
    for case in cases {
        let text = chat.render(&case.messages, case.add_generation_prompt, Map::new());
        let text = text.unwrap();
        assert_eq!(text, case.rendered);
        assert_eq!(tokenizer.encode(&text, false).unwrap(), case.ids);
    }
}

#[test]
fn templates_of_other_models() {
    let cases = golden().other_templates;
    assert!(cases.iter().any(|case| case.error.is_some()));
    for case in cases {
        let config = TokenizerConfig {
            bos_token: Some(case.bos_token),
            chat_templates: vec![("default".into(), case.template)],
            ..TokenizerConfig::default()
        };
        let chat = ChatTemplate::from_config(&config).unwrap();
        let text = chat.render(&case.messages, case.add_generation_prompt, Map::new());
        match case.error {
            None => assert_eq!(Some(text.unwrap()), case.rendered),
            Some(refusal) => {
                let error = text.unwrap_err().to_string();
                assert!(error.contains(&refusal), "{error}");
            }
        }
    }
}
