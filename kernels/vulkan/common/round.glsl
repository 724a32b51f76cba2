// f32 to 16-bit formats, to nearest, ties to even. In integers, because a
// shader's own conversion may round as it likes.

uint to_bf16(float x) {
    uint u = floatBitsToUint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
        return (u >> 16) | 0x40u;
    }
    return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
}

uint to_f16(float x) {
    uint u = floatBitsToUint(x);
    uint sign = (u >> 16) & 0x8000u;
    uint a = u & 0x7fffffffu;
    if (a > 0x7f800000u) {
        return sign | 0x7e00u;
    }
    // 65520 and more round to infinity.
    if (a >= 0x477ff000u) {
        return sign | 0x7c00u;
    }
    if (a >= 0x38800000u) {
        a -= 0x38000000u;
        return sign | ((a + 0xfffu + ((a >> 13) & 1u)) >> 13);
    }
    // At most half of the least subnormal, 2⁻²⁵.
    if (a <= 0x33000000u) {
        return sign;
    }
    // Subnormal: the mantissa in units of 2⁻²⁴.
    uint shift = 126u - (a >> 23);
    uint m = (a & 0x7fffffu) | 0x800000u;
    uint q = m >> shift;
    uint rest = m & ((1u << shift) - 1u);
    uint tie = 1u << (shift - 1u);
    if (rest > tie || (rest == tie && (q & 1u) == 1u)) {
        q += 1u;
    }
    return sign | q;
}
