// Stored numbers, read through u32 words. `SCHEME` is specialization constant 3:
// plain numbers up to BF16, above that the block schemes of `blocks.glsl`.

layout(constant_id = 3) const uint SCHEME = F32;

// The 16-bit number in the low half of h.
float decode16(uint h) {
    if (SCHEME == F16) {
        return unpackHalf2x16(h & 0xffffu).x;
    }
    return uintBitsToFloat(h << 16);
}

// Both 16-bit numbers of a word, the low one first.
vec2 decode16x2(uint word) {
    if (SCHEME == F16) {
        return unpackHalf2x16(word);
    }
    return vec2(uintBitsToFloat(word << 16), uintBitsToFloat(word & 0xffff0000u));
}

// Element e of an array of words.
#define STORED(words, e) \
    (SCHEME == F32 ? uintBitsToFloat(words[e]) : decode16(words[(e) >> 1] >> (((e) & 1u) * 16u)))
