// Caches in int8_kv, after `stored.glsl`: elements are signed bytes, four to a word,
// times a scale for each head and token, an f16 that is no less than zero. The scales
// of a page's keys lie behind the bytes of all of them, one for each token of a head,
// one head after the other; those of its values do behind the values.

const uint INT8_KV = 17;
const bool SCALED = SCHEME == INT8_KV;

// Byte i of a word, 0 to 3.
float code(uint word, uint i) {
    return float(bitfieldExtract(int(word), int(8 * i), 8));
}

vec4 codes(uint word) {
    return vec4(code(word, 0), code(word, 1), code(word, 2), code(word, 3));
}

// The scale in the low half of h. In integers: devices may take subnormal f16 for
// zero.
float scale_of(uint h) {
    h &= 0xffffu;
    return h < 0x400u ? float(h) * 5.9604644775390625e-8 : uintBitsToFloat((h << 13) + 0x38000000u);
}

// Number i of an array of f16 that begins with the words.
#define SCALE(words, i) scale_of(words[(i) >> 1] >> (((i) & 1u) * 16u))
