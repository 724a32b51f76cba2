//! The pre-tokenizers that `tokenizer.ggml.pre` names.
//!
//! GGUF stores the name of a split and not the split itself. The steps are those of the
//! tokenizer.json files that the names stand for; each is applied to the pieces that the one
//! before left, and what it does not match stays a piece of its own.

use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};

/// How text is prepared for merging.
pub(super) struct Pre {
    names: &'static [&'static str],
    steps: &'static [Step],
    /// Whether a piece that is a token is not merged from its characters.
    pub ignore_merges: bool,
    /// Whether a beginning token is added where the file does not say.
    pub add_bos: bool,
    /// Whether characters are composed first.
    compose: bool,
}

/// One way of taking pieces apart.
enum Step {
    /// What the expression matches is a piece.
    Match(&'static str),
    /// Each digit, of any script, is a piece.
    EachDigit,
    /// Digits that are neighbours are a piece.
    Numbers,
    /// Punctuation that is together is a piece.
    Punctuation,
    /// GPT-2's split. Its bytes become characters here, so that later steps see those.
    Gpt2,
}

use Step::{EachDigit, Gpt2, Match, Numbers};

const PLAIN: Pre = Pre {
    names: &[],
    steps: &[],
    ignore_merges: false,
    add_bos: false,
    compose: false,
};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r#"[!"\#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"#;
const SEED: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+";
const DEEPSEEK_PUNCTUATION: &str =
    r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+";
const THREE_DIGITS: &str = r"[0-9][0-9][0-9]";
const NEWLINE: &str = r"[\r\n]";
const CJK: &str = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+";

/// `\s?` and the letters with case of DeepSeek's first tokenizer.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[",
    r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}",
    r"\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}",
    r"\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}",
    r"\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}",
    r"\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}",
    r"\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}",
    r"\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}",
    r"\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}",
    r"\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}",
    r"\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}",
    r"\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}",
    r"\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}",
    r"\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}",
    r"\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}",
    r"\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}",
    r"\x{1E900}-\x{1E943}",
    "]+",
);

const ALL: &[Pre] = &[
    Pre {
        names: &["qwen2"],
        steps: &[Match(QWEN2)],
        compose: true,
        ..PLAIN
    },
    Pre {
        names: &["qwen35"],
        steps: &[Match(QWEN35)],
        compose: true,
        ..PLAIN
    },
    Pre {
        names: &[
            "deepseek-r1-qwen",
            "kormo",
            "megrez",
            "stablelm2",
            "hunyuan",
            "grok-2",
            "solar-open",
        ],
        steps: &[Match(QWEN2)],
        ..PLAIN
    },
    Pre {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
        ],
        steps: &[Match(LLAMA3)],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    Pre {
        names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"],
        steps: &[Match(LLAMA3)],
        ..PLAIN
    },
    Pre {
        names: &["gpt-4o", "llama4", "minimax-m2", "kanana2"],
        steps: &[Match(GPT4O)],
        ..PLAIN
    },
    Pre {
        names: &["tekken"],
        steps: &[Match(TEKKEN)],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    Pre {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "gigachat",
            "a.x-4.0",
            "mellum",
        ],
        steps: &[Gpt2],
        ..PLAIN
    },
    Pre {
        names: &[
            "starcoder",
            "refact",
            "smollm",
            "mellum2",
            "codeshell",
            "exaone",
            "minerva-7b",
        ],
        steps: &[EachDigit, Gpt2],
        ..PLAIN
    },
    Pre {
        names: &["command-r"],
        steps: &[EachDigit, Gpt2],
        compose: true,
        ..PLAIN
    },
    Pre {
        names: &["deepseek-v3", "hunyuan-dense"],
        steps: &[
            Match(r"\p{N}{1,3}"),
            Match(r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+"),
            Match(DEEPSEEK3),
        ],
        ..PLAIN
    },
    Pre {
        names: &["deepseek-llm"],
        steps: &[
            Match(NEWLINE),
            Match(DEEPSEEK_LETTERS),
            Match(DEEPSEEK_PUNCTUATION),
            Match(r"\s+$"),
            Match(CJK),
            EachDigit,
        ],
        ..PLAIN
    },
    Pre {
        names: &["deepseek-coder"],
        steps: &[
            Match(NEWLINE),
            Match(r"\s?\p{L}+"),
            Match(r"\s?\p{P}+"),
            Match(CJK),
            EachDigit,
        ],
        ..PLAIN
    },
    Pre {
        names: &["falcon"],
        steps: &[Step::Punctuation, Gpt2, Numbers, Match(THREE_DIGITS)],
        ..PLAIN
    },
    Pre {
        names: &["bloom", "poro-chat", "gpt3-finnish"],
        steps: &[Match(BLOOM)],
        ..PLAIN
    },
    Pre {
        names: &["viking"],
        steps: &[Match(BLOOM), EachDigit],
        ..PLAIN
    },
    Pre {
        names: &["seed-coder"],
        steps: &[Match(SEED)],
        ..PLAIN
    },
    Pre {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        steps: &[Match(BAILING)],
        ..PLAIN
    },
    // Files from before the key existed have this split too.
    Pre {
        names: &["default", ""],
        steps: &[
            Match(r"[\p{P}\$\+<=>\^~\|]+"),
            Match(GPT2),
            Match(r"\p{N}+"),
            Match(THREE_DIGITS),
        ],
        ..PLAIN
    },
];

impl Pre {
    /// The pre-tokenizer called `name`; the empty name is that of files that name none.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|pre| pre.names.contains(&name))
    }

    /// All names, for an error.
    pub(super) fn known() -> String {
        let names = ALL.iter().flat_map(|pre| pre.names);
        let names: Vec<&str> = names.copied().filter(|name| !name.is_empty()).collect();
        names.join(", ")
    }

    pub(super) fn normalizer(&self) -> Option<NormalizerWrapper> {
        self.compose.then(|| NormalizerWrapper::NFC(NFC))
    }

    /// The steps, and each byte as a character of the byte-level alphabet.
    pub(super) fn pre_tokenizer(&self) -> Result<PreTokenizerWrapper, String> {
        let steps: Result<Vec<_>, String> = self.steps.iter().map(Step::build).collect();
        let mut steps = steps?;
        if !self.steps.iter().any(|step| matches!(step, Gpt2)) {
            steps.push(bytes(false));
        }
        Ok(PreTokenizerWrapper::Sequence(Sequence::new(steps)))
    }
}

impl Step {
    fn build(&self) -> Result<PreTokenizerWrapper, String> {
        Ok(match self {
            Match(expression) => {
                let pattern = SplitPattern::Regex((*expression).to_string());
                let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                    .map_err(|e| format!("its pre-tokenizer is not understood: {e}"))?;
                PreTokenizerWrapper::Split(split)
            }
            EachDigit => PreTokenizerWrapper::Digits(Digits::new(true)),
            Numbers => PreTokenizerWrapper::Digits(Digits::new(false)),
            Self::Punctuation => PreTokenizerWrapper::Punctuation(Punctuation::new(
                SplitDelimiterBehavior::Contiguous,
            )),
            Gpt2 => bytes(true),
        })
    }
}

/// Each byte as a character, with GPT-2's split before or not.
fn bytes(split: bool) -> PreTokenizerWrapper {
    PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, split))
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    use super::*;

    fn pieces(name: &str, text: &str) -> Vec<String> {
        let pre = Pre::named(name).unwrap().pre_tokenizer().unwrap();
        let mut split = PreTokenizedString::from(text);
        pre.pre_tokenize(&mut split).unwrap();
        let parts = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let ranges = parts
            .iter()
            .map(|(_, range, _)| text[range.0..range.1].to_string());
        ranges.collect()
    }

    #[test]
    fn every_expression_compiles_and_loses_nothing() {
        let text =
            "It's 12345 x²  naïve\u{301}\r\n\n\t日本語かな 한국어 ¿Qué? «…»  🦀's `code`//\n ";
        // Pieces in the alphabet of bytes: some splits take a character's bytes apart.
        let bytes_of = |pre: PreTokenizerWrapper| {
            let mut split = PreTokenizedString::from(text);
            pre.pre_tokenize(&mut split).unwrap();
            let parts = split.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
            let texts: Vec<&str> = parts.iter().map(|(text, ..)| *text).collect();
            texts.concat()
        };
        let whole = bytes_of(bytes(false));
        for pre in ALL {
            assert_eq!(
                bytes_of(pre.pre_tokenizer().unwrap()),
                whole,
                "{:?}",
                pre.names
            );
        }
    }

    #[test]
    fn names_are_unique() {
        let names: Vec<_> = ALL.iter().flat_map(|pre| pre.names).collect();
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(names.len(), distinct.len());
        assert!(Pre::named("no such split").is_none());
    }

    #[test]
    fn splits_differ_where_they_should() {
        let text = "I'Ll see 12345 e\u{301}tat";
        assert_eq!(
            pieces("llama-bpe", text),
            ["I", "'Ll", " see", " ", "123", "45", " e", "\u{301}tat"]
        );
        assert_eq!(
            pieces("qwen2", text),
            [
                "I",
                "'Ll",
                " see",
                " ",
                "1",
                "2",
                "3",
                "4",
                "5",
                " e",
                "\u{301}tat"
            ]
        );
        assert_eq!(
            pieces("qwen35", text),
            [
                "I",
                "'Ll",
                " see",
                " ",
                "1",
                "2",
                "3",
                "4",
                "5",
                " e\u{301}tat"
            ]
        );
        assert_eq!(
            pieces("gpt-2", text),
            ["I", "'", "Ll", " see", " 12345", " e", "\u{301}", "tat"]
        );
        assert_eq!(
            pieces("starcoder", text),
            [
                "I", "'", "Ll", " see", " ", "1", "2", "3", "4", "5", " e", "\u{301}", "tat"
            ]
        );
        assert_eq!(
            pieces("falcon", text),
            [
                "I", "'", "Ll", " see", " ", "123", "45", " e", "\u{301}", "tat"
            ]
        );
        assert_eq!(
            pieces("gpt-4o", "HTTPServer's aB/\n"),
            ["HTTPServer's", " a", "B", "/\n"]
        );
        assert_eq!(pieces("tekken", "aB's"), ["a", "B", "'s"]);
        assert_eq!(
            pieces("deepseek-v3", "日本語abc1234.foo"),
            ["日本語", "abc", "123", "4", ".foo"]
        );
        assert_eq!(
            pieces("deepseek-llm", "a b\n日本 12."),
            ["a", " b", "\n", "日本", " ", "1", "2", "."]
        );
    }
}
