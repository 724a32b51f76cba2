"""2,000 lines of mixed text and a hash of the ids that `tokenizers` and `sentencepiece` give each.

    .venv/bin/python lines.py             # rewrites lines.json beside this file
    .venv/bin/python lines.py --seed N DIR # other lines, merges and pieces, not for the repository

The first lines are those of fixtures/eval.txt that are not empty; the others are in `lines`. Byte
pair merges are learnt from whole lines without any split, so that they reach across everything
that a pre-tokenizer may separate; words without merges tell `ignore_merges`. `bpe` has the merges
(the tokens are 256 bytes, then the joined merges, then `words`, then `added`), `spm` the pieces as
[text, score, type].

`hashes` holds four characters of base64 for each line and tokenizer: the low 24 bits, big endian,
of FNV-1a (32 bits) over the ids as little-endian u32.
"""

import io
import json
import random
import sys
import unicodedata
from pathlib import Path
from unittest import mock

import sentencepiece as spm
import tiktoken.load
from sentencepiece import sentencepiece_model_pb2 as proto
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen2 import tokenization_qwen2
from transformers.models.qwen3_5 import tokenization_qwen3_5

HERE = Path(__file__).resolve().parent
FIXTURES = HERE.parents[3] / "fixtures"
EVAL_LINES = 900
LINES = 2000
BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

WORDS = """I'll You'RE don't DON'T it's he'd we'Ve o'clock 'tis l'été naïve café Straße ŁÓDŹ İstanbul
nai\u0308ve e\u0301\u0301 Å\u030a ὈΔΥΣΣΕΎΣ λόγος Привет МИР Українська Հայերեն שלום עִבְרִית العربية مُحَمَّد فارسی नमस्ते क्षत्रिय
বাংলা தமிழ் తెలుగు ไทยภาษา ລາວ မြန်မာ ភាសាខ្មែរ ქართული አማርኛ 日本語 ひらがな カタカナ ﾊﾝｶｸ 漢字かな交じり文 中文简体 繁體中文 㐀㐁 𠀀𠀁 한국어 조선말 ㄱㄴㄷ
Tiếng Việt Ωmega ﬁligree Ⅷ ½ ² x² ¼kg ٣٤٥ ۱۲۳ १२३ １２３４ 12 123 1234 12345678901234567890 3.14159 1e-9 0xDEAD 0b1010 1_000_000 v1.2.3
🦀 😀 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇯🇵 👍🏽 ☃️ ✈ ❤️‍🔥 𝔘𝔫𝔦 𝟙𝟚 ♜♞ ∑∫√∞ ≠≤ →⇒ €£¥₿ ©®™ “quoted” ‘single’ «guillemets» „low“ —dash– …dots ¿Qué? ¡Sí! 、。「」！？
camelCase PascalCase HTTPServer snake_case SCREAMING_CASE kebab-case path/to/file.rs C:\\dir\\x https://example.org/a?b=c&d=%20#e user@example.org
<tool> <|end|> <|end|x the The THE of and ing tion ity un re""".split()

CODE = [
    "fn main() { println!(\"{:?}\", x?.y[0]); }", "let v: Vec<u8> = Vec::with_capacity(1 << 10);",
    "    if (a && b || !c) { return -1; }", "\tfor i in range(10):\n\t\tprint(i)", "#include <stdio.h>\r\n",
    "SELECT * FROM t WHERE a >= 10 AND b != 'x';", "$ git commit -m \"it's\" && cd ../..", "x = y**2 // 3 % 4 ^ ~z",
    "/* comment */ // more", "```rust\ncode\n```", "{\"key\": [1, 2.5, null, true], \"k2\": {}}", "<div class=\"a\">&amp;</div>",
    "a+=b-=c*=d/=e", "|x| x.map(|y| y + 1)", "\\begin{align} \\frac{a}{b} \\end{align}", "import numpy as np; np.array([[1,2],[3,4]])",
    "@decorator\ndef f(*args, **kwargs): ...", "0..=255", "!@#$%^&*()_+-=[]{};':\",./<>?`~", "----====####****", "a\\nb\\tc",
]

SPACES = [" ", " ", " ", " ", "  ", "   ", "     ", "\t", "\t\t", "\n", "\n\n", "\r\n", " \n ", "\n    ", "", "", "\u00a0", "\u2003", "\u3000", "\u200b", "\u2009\u2009", "\x0b", "\x85", "\u2028", " \t \t"]


def pick_char(rng):
    """An assigned character of some plane; old ones, so that versions of Unicode do not matter."""
    while True:
        c = chr(rng.choice([rng.randrange(0x300), rng.randrange(0x3000), rng.randrange(0x10000), rng.randrange(0x1F000, 0x1FA00), rng.randrange(0x10000, 0x20000)]))
        old = unicodedata.ucd_3_2_0.category(c)
        # What the version of 2002 has, minus what changed its kind since.
        if old not in ("Cn", "Cs", "Co") and old == unicodedata.category(c):
            return c


def make_lines(rng):
    texts = ["", " ", "  ", "\n", "\t", "a", " a", "a ", "'s", "'", "''", "\u2581", "a\u2581b", "\u2581\u2581", " \u2581 ", "\x00", "\x7f", "\ufeffx", "\U0010fffd", "[EMPTY]"]
    texts += WORDS + CODE
    while len(texts) < LINES - EVAL_LINES:
        kind = rng.randrange(10)
        if kind == 0:
            texts.append("".join(pick_char(rng) for _ in range(rng.randrange(1, 24))))
        elif kind == 1:
            atoms = [rng.choice(" .,;:!?'\"()[]{}<>/\\|@#$%^&*-_=+~`0123456789abcXYZ\n\t\r") for _ in range(rng.randrange(1, 50))]
            texts.append("".join(atoms))
        elif kind == 2:
            texts.append(rng.choice(SPACES) * rng.randrange(1, 9) + rng.choice(CODE) + rng.choice(SPACES) * rng.randrange(9))
        else:
            text = rng.choice(["", " "])
            for _ in range(rng.randrange(2, 9)):
                text += rng.choice(WORDS) + rng.choice(SPACES)
            texts.append(text)
    return texts


def split(pattern):
    return pre.Split(Regex(pattern), behavior="isolated")


def splits(*patterns):
    return pre.Sequence([p if isinstance(p, pre.PreTokenizer) else split(p) for p in patterns] + [pre.ByteLevel(add_prefix_space=False, use_regex=False)])


def o200k():
    """OpenAI's expression, without fetching the vocabulary beside it."""
    with mock.patch.object(tiktoken.load, "load_tiktoken_bpe", return_value={}):
        from tiktoken_ext import openai_public

        with mock.patch.object(openai_public, "load_tiktoken_bpe", return_value={}):
            return openai_public.o200k_base()["pat_str"]


# The letters with case that the tokenizer.json of DeepSeek LLM lists.
DEEPSEEK_LETTERS = """41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1
3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77
1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE
1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124
2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3
A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A
10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"""
DEEPSEEK_LETTERS = "".join("-".join(chr(int(end, 16)) for end in part.split("-")) for part in DEEPSEEK_LETTERS.split())
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
DIGITS = pre.Digits(individual_digits=True)


def pre_tokenizers():
    """Name in GGUF files: pre-tokenizer, normalizer, ignore_merges; as the tokenizer.json files of
    the models that it is called after have them."""
    byte_level = pre.ByteLevel(add_prefix_space=False, use_regex=True)
    mistral = o200k().replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace(r"\p{N}{1,3}", r"\p{N}")
    llama3 = TikTokenConverter().pattern
    return {
        "gpt-2": (byte_level, None, False),
        "smollm": (pre.Sequence([DIGITS, byte_level]), None, False),
        "command-r": (pre.Sequence([DIGITS, byte_level]), normalizers.NFC(), False),
        "falcon": (pre.Sequence([pre.Punctuation(behavior="contiguous"), byte_level, pre.Digits(individual_digits=False), split("[0-9][0-9][0-9]")]), None, False),
        "qwen2": (splits(tokenization_qwen2.PRETOKENIZE_REGEX), normalizers.NFC(), False),
        "qwen35": (splits(tokenization_qwen3_5.PRETOKENIZE_REGEX), normalizers.NFC(), False),
        "llama-bpe": (splits(llama3), None, True),
        "dbrx": (splits(llama3), None, False),
        "gpt-4o": (splits(o200k()), None, False),
        "tekken": (splits(mistral), None, True),
        "deepseek-v3": (splits(r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""), None, False),
        "deepseek-llm": (splits("[\r\n]", rf"\s?[{DEEPSEEK_LETTERS}]+", "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+", r"\s+$", CJK, DIGITS), None, False),
        "deepseek-coder": (splits("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, DIGITS), None, False),
    }


def train_bpe(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=1700, initial_alphabet=alphabet, max_token_length=16, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    merges = [tuple(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]]
    tokens = alphabet + [a + b for a, b in merges]
    assert len(set(tokens)) == len(tokens)
    # Pieces of text that no merges make.
    counts = {}
    for text in texts:
        for piece, _ in pre.ByteLevel(add_prefix_space=False).pre_tokenize_str(text):
            counts[piece] = counts.get(piece, 0) + 1
    common = sorted((p for p in counts if len(p) > 4 and p not in set(tokens)), key=lambda p: (-counts[p], p))
    return merges, tokens, common[:60]


def train_spm(texts):
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([t for t in texts if t and "\x00" not in t]), model_writer=out, model_type="bpe", vocab_size=1600,
        character_coverage=0.995, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, max_sentence_length=100000, num_threads=1, minloglevel=2)
    return proto.ModelProto.FromString(out.getvalue())


def fnv(ids):
    h = 0x811C9DC5
    for i in ids:
        for b in i.to_bytes(4, "little"):
            h = (h ^ b) * 0x01000193 & 0xFFFFFFFF
    return "".join(BASE64[h >> s & 63] for s in (18, 12, 6, 0))


def main():
    seed, target = 7, HERE / "lines.json"
    if "--seed" in sys.argv:
        at = sys.argv.index("--seed")
        seed, target = int(sys.argv[at + 1]), Path(sys.argv[at + 2]) / "lines.json"
    rng = random.Random(seed)
    lines = make_lines(rng)
    known = [line for line in (FIXTURES / "eval.txt").read_text().split("\n") if line][:EVAL_LINES]
    texts = known + lines
    assert len(texts) == LINES

    hashes = {}
    added = ["<|end|>", "<tool>"]
    merges, tokens, words = train_bpe([t for t in lines if not any(a in t for a in added)] + rng.sample(known, 300))
    vocab = {t: i for i, t in enumerate(tokens + words + added)}
    assert len(vocab) == len(tokens) + len(words) + len(added)
    for name, (pre_tokenizer, normalizer, ignore_merges) in pre_tokenizers().items():
        tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=ignore_merges))
        tokenizer.pre_tokenizer = pre_tokenizer
        if normalizer:
            tokenizer.normalizer = normalizer
        tokenizer.add_special_tokens([AddedToken(added[0], normalized=False, special=True)])
        tokenizer.add_tokens([AddedToken(added[1], normalized=False)])
        assert tokenizer.get_vocab_size() == len(vocab)
        hashes[name] = "".join(fnv(tokenizer.encode(t, add_special_tokens=False).ids) for t in texts)
    assert len(set(hashes.values())) == len(hashes), "two splits that these lines cannot tell apart"

    folder = Tokenizer.from_file(str(FIXTURES / "models/ferris-9m/tokenizer.json"))
    hashes["ferris-9m"] = "".join(fnv(folder.encode(t, add_special_tokens=False).ids) for t in texts)

    model = train_spm(lines + rng.sample(known, 300))
    pieces = [[p.piece, p.score, p.type] for p in model.pieces]
    # As Gemma's: runs of spaces and newlines are symbols of their own.
    runs = ["\u2581" * n for n in range(2, 12)] + ["\n" * n for n in range(1, 5)] + ["\t", "\t\t"]
    own = [r for r in runs if r not in {p[0] for p in pieces}]
    for name, prefix, symbols in [("llama", True, []), ("gemma", False, runs)]:
        copy = proto.ModelProto()
        copy.CopyFrom(model)
        copy.normalizer_spec.add_dummy_prefix = prefix
        for piece in copy.pieces:
            if piece.piece in symbols:
                piece.type = proto.ModelProto.SentencePiece.USER_DEFINED
        for symbol in own if symbols else []:
            copy.pieces.add(piece=symbol, score=0.0, type=proto.ModelProto.SentencePiece.USER_DEFINED)
        processor = spm.SentencePieceProcessor(model_proto=copy.SerializeToString())
        hashes[name] = "".join(fnv(processor.encode(t)) for t in texts)

    out = {"eval_lines": EVAL_LINES, "lines": lines, "bpe": {"merges": [" ".join(m) for m in merges], "words": words, "added": added},
           "spm": pieces, "runs": runs, "hashes": hashes}
    target.write_text(json.dumps(out, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
