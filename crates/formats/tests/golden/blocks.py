"""Random blocks of every block scheme and what the PyPI package `gguf` decodes them to.

    python3 -m venv .venv && .venv/bin/pip install -r requirements.txt
    .venv/bin/python blocks.py            # rewrites blocks.safetensors beside this file

For each scheme: `<scheme>.blocks` u8 [N, bytes of a block] and `<scheme>.values` f32 [N, elements
of a block]. Blocks have random contents, except that every f16 scale takes each of the values of
SCALES in turn, and that the last four blocks of a scheme have all other bits zero or one.
"""

import json
import struct
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

# f16 bits: zeros, the smallest and largest subnormals, the smallest normal, ordinary values, the
# largest finite value; most of them with either sign.
SCALES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x211F, 0xA11F, 0x3C00, 0xBC00,
          0x5640, 0x7BFF, 0xFBFF]
# E8M0 exponents: both special small ones, ordinary ones, the largest whose products are finite.
EXPONENTS = [0, 1, 2, 3, 100, 119, 120, 121, 127, 128, 200, 251, 252]

# Where a block keeps its f16 scales.
F16_AT = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82],
          "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0],
          "IQ4_XS": [0], "MXFP4": []}


def blocks_of(name, rng):
    kind = GGMLQuantizationType[name]
    elements, size = GGML_QUANT_SIZES[kind]
    count = 48 if elements == 32 else 18
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for row, fill in zip((-4, -3, -2, -1), (0, 255, 0, 255)):
        blocks[row] = fill
    for i, block in enumerate(blocks):
        for n, at in enumerate(F16_AT[name]):
            bits = SCALES[(i * (1 + 2 * n) + n) % len(SCALES)]
            block[at : at + 2] = np.frombuffer(struct.pack("<H", bits), np.uint8)
        if name == "MXFP4":
            block[0] = EXPONENTS[i % len(EXPONENTS)]
    values = dequantize(blocks, kind).reshape(count, elements).astype(np.float32)
    assert np.isfinite(values).all(), name
    return blocks, values


def save(path, tensors):
    header, offset = {}, 0
    for name, array in tensors.items():
        dtype = {"uint8": "U8", "float32": "F32"}[array.dtype.name]
        end = offset + array.nbytes
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            out.write(np.ascontiguousarray(array).tobytes())


def main():
    rng = np.random.default_rng(20)
    tensors = {}
    for name in F16_AT:
        blocks, values = blocks_of(name, rng)
        tensors[f"{name.lower()}.blocks"] = blocks
        tensors[f"{name.lower()}.values"] = values
    save(Path(__file__).with_name("blocks.safetensors"), tensors)


if __name__ == "__main__":
    main()
