"""A small SentencePiece BPE model with byte fallback, and the ids that sentencepiece gives.

    .venv/bin/python spm.py               # rewrites spm.json beside this file
    .venv/bin/python spm.py --lines N DIR # N lines of other text and their ids, not for the repository

`pieces` are [text, score, type] with the types of SentencePiece, `models` one entry for each way
of using them: with and without a space put before the text, and with some pieces marked as unused.
No text has a control token written out: sentencepiece takes those for text, engines do not.
"""

import io
import json
import random
import sys
from pathlib import Path

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as proto

HERE = Path(__file__).resolve().parent
EVAL = HERE.parents[3] / "fixtures" / "eval.txt"

TEXTS = [
    "", " ", "  ", "a", " a", "a ", "Hello, world!", "hello   world    with     runs",
    "\n", "\n\n\n", "\t\tx", "line\r\nend", "let mut v: Vec<u8> = Vec::new();", "    indented {\n}",
    "na\u00efve caf\u00e9", "nai\u0308ve", "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8", "\ud55c\uad6d\uc5b4", "\U0001f980\U0001f600 x", "\u0928\u092e\u0938\u094d\u0924\u0947",
    "\u2581\u2581under\u2581bars", "1234567890", "aaaaaaaaaaaaaaaaaaaaaaaa", "ababababab", "<0x0A>", "\u00a0\u2003\u3000", "\u200b\ufeff", "MixedCASE_snake-kebab.dots/slash\\back", "`code` \"quoted\" 'single'",
    "the the the thethethe", "e\u0301\u0301\u0301", "\u0000\u0001", "\U0010ffff",
]


def train():
    model = io.BytesIO()
    lines = [line for line in EVAL.read_text().split("\n") if line]
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=1000,
        character_coverage=0.998,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, max_sentence_length=100000, num_threads=1, minloglevel=2)
    return proto.ModelProto.FromString(model.getvalue())


def variant(model, prefix, unused):
    out = proto.ModelProto()
    out.CopyFrom(model)
    out.normalizer_spec.add_dummy_prefix = prefix
    for i in unused:
        out.pieces[i].type = proto.ModelProto.SentencePiece.UNUSED
    return out, spm.SentencePieceProcessor(model_proto=out.SerializeToString())


def mixed(rng, lines):
    parts = [rng.choice(lines), rng.choice(TEXTS), rng.choice(lines)]
    text = rng.choice(["", " ", "\n", "  "]).join(parts)
    start = rng.randrange(max(1, len(text) // 2))
    return text[start : start + rng.randrange(1, 120)]


def main():
    model = train()
    lines = [line for line in EVAL.read_text().split("\n") if line]
    rng = random.Random(20)
    texts = TEXTS + [mixed(rng, lines) for _ in range(60)]
    if "--lines" in sys.argv:
        at = sys.argv.index("--lines")
        texts = [mixed(rng, lines) for _ in range(int(sys.argv[at + 1]))]
        target = Path(sys.argv[at + 2]) / "spm.json"
    else:
        target = HERE / "spm.json"
    normal = [i for i, p in enumerate(model.pieces) if p.type == p.NORMAL and len(p.piece) > 1]
    models = []
    for prefix, unused in [(True, []), (False, []), (True, sorted(rng.sample(normal, 120)))]:
        _, processor = variant(model, prefix, unused)
        ids = [processor.encode(text) for text in texts]
        back = [processor.decode(i) for i in ids]
        models.append({"prefix": prefix, "unused": unused, "ids": ids, "decoded": back})
    pieces = [[p.piece, p.score, p.type] for p in model.pieces]
    out = {"pieces": pieces, "texts": texts, "models": models}
    target.write_text(json.dumps(out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
