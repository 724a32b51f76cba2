"""Hostile GGUF files of at most 160 bytes, which the tests open one by one.

    python3 gguf.py    # rewrites *.gguf beside this file

A file that a fuzzer or a user finds is added here, or beside these under a name that says what is
wrong with it.
"""

import struct
from pathlib import Path

HERE = Path(__file__).resolve().parent
U8, U16, U32, STRING, ARRAY, U64 = 0, 2, 4, 8, 9, 10


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def key(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


def array(kind, count, values=b""):
    return struct.pack("<IQ", kind, count) + values


def tensor(name, dims, kind=0, offset=0):
    return text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", kind, offset)


def gguf(keys=(), tensors=(), rest=b"", n_keys=None, n_tensors=None, version=3):
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys)
    return head + b"".join(keys) + b"".join(tensors) + rest


def nested(depth):
    value = array(U8, 1, b"\x05")
    for _ in range(depth):
        value = array(ARRAY, 1, value)
    return value


def file_of(architecture, *numbers):
    keys = [key("general.architecture", STRING, text(architecture))]
    keys += [key(f"{architecture}.{name}", U32, struct.pack("<I", n)) for name, n in numbers]
    return gguf(keys)


SEEDS = {
    "empty-header": gguf(),
    "cut-in-magic": b"GGU",
    "cut-in-counts": gguf()[:20],
    "version-2": gguf(version=2),
    "tensors-2e63": gguf(n_tensors=1 << 63, rest=bytes(136)),
    "tensors-as-many-as-fit": gguf(n_tensors=5, rest=bytes(136)),
    "keys-2e63": gguf(n_keys=1 << 63, rest=bytes(136)),
    "keys-as-many-as-fit": gguf(n_keys=10, rest=bytes(136)),
    "key-name-2e63": gguf(n_keys=1, rest=struct.pack("<Q", 1 << 63) + bytes(128)),
    "key-name-wraps": gguf(n_keys=1, rest=struct.pack("<Q", (1 << 64) - 8) + bytes(128)),
    "string-2e40": gguf([key("general.architecture", STRING, struct.pack("<Q", 1 << 40) + bytes(80))]),
    "array-u8-2e32": gguf([key("k", ARRAY, array(U8, 1 << 32, bytes(100)))]),
    "array-u64-wraps": gguf([key("k", ARRAY, array(U64, 1 << 61, bytes(100)))]),
    "array-strings-2e61": gguf([key("tokenizer.ggml.tokens", ARRAY, array(STRING, 1 << 61, bytes(80)))]),
    "array-strings-empty": gguf([key("tokenizer.ggml.tokens", ARRAY, array(STRING, 10, bytes(80)))]),
    "array-arrays-2e60": gguf([key("k", ARRAY, array(ARRAY, 1 << 60, bytes(96)))]),
    "array-arrays-empty": gguf([key("k", ARRAY, array(ARRAY, 8, bytes(96)))]),
    "arrays-nested": gguf([key("k", ARRAY, nested(8))]),
    "tensor-name-2e63": gguf(n_tensors=1, rest=struct.pack("<Q", 1 << 63) + bytes(128)),
    "tensor-2e40": gguf(tensors=[tensor("w", [1 << 40])], rest=bytes(80)),
    "tensor-overflows": gguf(tensors=[tensor("w", [1 << 32] * 4)]),
    "tensor-rank-2e32": gguf(tensors=[text("w") + struct.pack("<I", 0xFFFFFFFF) + bytes(100)]),
    "tensor-offset-wraps": gguf(tensors=[tensor("w", [8], offset=(1 << 64) - 32)], rest=bytes(64)),
    "tensor-type-unknown": gguf(tensors=[tensor("w", [32], kind=0xFFFFFFFF)], rest=bytes(64)),
    "tensor-block-2e60": gguf(tensors=[tensor("w", [256, 1 << 52], kind=12)], rest=bytes(64)),
    "alignment-2e63": gguf([key("general.alignment", U64, struct.pack("<Q", 1 << 63))], [tensor("w", [4])]),
    "parts-00001-of-65535": gguf([key("split.count", U16, struct.pack("<H", 65535)), key("split.no", U16, struct.pack("<H", 0))]),
    "layers-2e32": file_of("llama", ("block_count", 0xFFFFFFFF), ("embedding_length", 1 << 20)),
    "layers-4096": file_of("llama", ("block_count", 4096), ("embedding_length", 1 << 20)),
    "tokens-none": gguf([key("tokenizer.ggml.model", STRING, text("gpt2")), key("tokenizer.ggml.tokens", ARRAY, array(STRING, 0))]),
    "tokens-one": gguf([key("tokenizer.ggml.model", STRING, text("llama")), key("tokenizer.ggml.tokens", ARRAY, array(STRING, 1, text("a")))]),
    "template-2e50": gguf([key("tokenizer.chat_template", STRING, struct.pack("<Q", 1 << 50) + bytes(60))]),
}

if __name__ == "__main__":
    for name, data in SEEDS.items():
        assert len(data) <= 160, (name, len(data))
        (HERE / f"{name}.gguf").write_bytes(data)
