// Writes to a cache in int8_kv. The shader declares cache16 over it and includes
// `scaled.glsl`, `round.glsl`, `divide.glsl`.

// Stores the scale of a head whose largest magnitude is `most` as f16 number `at`, if
// this lane is to, and gives it. No head is so large that its scale has no f16.
float store_scale(uint at, float most, bool by_me) {
    uint scale = to_f16(min(divide(most, 127.0), 65504.0));
    if (by_me) cache16[at] = uint16_t(scale);
    return scale_of(scale);
}

uint code_of(float x, float scale) {
    if (scale == 0.0) return 0;
    return uint(int(clamp(roundEven(divide(x, scale)), -127.0, 127.0))) & 255u;
}

// Stores an element and the one behind it at byte `at`, which is even.
void store_pair(uint at, vec2 x, float scale) {
    cache16[at / 2] = uint16_t(code_of(x.x, scale) | (code_of(x.y, scale) << 8));
}
