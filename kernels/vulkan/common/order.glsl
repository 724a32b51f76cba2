// Numbers in order, above every NaN, which is `nan`; both zeros are equal.
uint order_of(float x, uint nan) {
    uint u = floatBitsToUint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return nan;
    if ((u & 0x7fffffffu) == 0) return 0x80000000u;
    return (u & 0x80000000u) != 0 ? ~u : u | 0x80000000u;
}
