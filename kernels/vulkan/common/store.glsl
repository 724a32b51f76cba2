// Writes to a cache, rounded to nearest even. The shader declares cache16 and
// cache32 over it.

void store(uint at, float x) {
    if (SCHEME == F32) {
        cache32[at] = x;
    } else if (SCHEME == F16) {
        cache16[at] = uint16_t(to_f16(x));
    } else {
        cache16[at] = uint16_t(to_bf16(x));
    }
}
