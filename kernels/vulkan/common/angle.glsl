// Sine and cosine to a few units in the last place: a shader's own may be off by
// 2⁻¹¹. The angle is reduced exactly, in integers (Payne and Hanek's way: mantissa
// times the bits of 2/π), and the rest is a polynomial.

// 2/π = 0.A2F9836E 4E441529 FC2757D1… in base 2³².
const uint TWO_OVER_PI[3] = uint[](0xa2f9836eu, 0x4e441529u, 0xfc2757d1u);

// The rest r in [-π/4, π/4] of x = q·π/2 + r, for finite x of magnitude below
// 2³¹; q modulo 4.
float reduce_angle(float x, out uint q) {
    uint u = floatBitsToUint(x);
    uint a = u & 0x7fffffffu;
    // Below π/4 nothing is to be done.
    if (a < 0x3f490fdau) {
        q = 0;
        return x;
    }
    // x = m·2^e, m of 24 bits.
    int e = int(a >> 23) - 150;
    uint m = (a & 0x7fffffu) | 0x800000u;
    // m times 2/π in units of 2⁻⁹⁶, four words.
    uint h0, l0, h1, l1, h2, l2, carry;
    umulExtended(m, TWO_OVER_PI[2], h0, l0);
    umulExtended(m, TWO_OVER_PI[1], h1, l1);
    umulExtended(m, TWO_OVER_PI[0], h2, l2);
    uint w0 = l0;
    uint w1 = uaddCarry(l1, h0, carry);
    h1 += carry;
    uint w2 = uaddCarry(l2, h1, carry);
    uint w3 = h2 + carry;
    // Shift the two lowest integer bits to the top.
    uint left = uint(e + 30);
    if (left >= 32) {
        w3 = w2;
        w2 = w1;
        w1 = w0;
        left -= 32;
    }
    uint hi = left == 0 ? w3 : (w3 << left) | (w2 >> (32 - left));
    uint lo = left == 0 ? w2 : (w2 << left) | (w1 >> (32 - left));
    // The fraction as a signed number in units of 2⁻³² of π/2, to the nearest
    // quarter turn.
    int fraction = int((hi << 2) | (lo >> 30));
    q = (hi >> 30) + (fraction < 0 ? 1u : 0u);
    float r = float(fraction) * 3.6572952e-10;
    if (u != a) {
        q = 0u - q;
        r = -r;
    }
    return r;
}

void sine_cosine(float x, out float sine, out float cosine) {
    uint q;
    float r = reduce_angle(x, q);
    float z = r * r;
    // Taylor terms to r⁹ and r¹⁰: the rest is below 2⁻²⁵ on [-π/4, π/4].
    float s = r + r * z * (-1.6666667e-1 + z * (8.3333333e-3 + z * (-1.9841270e-4 + z * 2.7557319e-6)));
    float c = 1.0 + z * (-0.5 + z * (4.1666667e-2 + z * (-1.3888889e-3 + z * (2.4801587e-5 - z * 2.7557319e-7))));
    bool swap = (q & 1u) == 1u;
    sine = swap ? c : s;
    cosine = swap ? s : c;
    if ((q & 2u) == 2u) sine = -sine;
    if (((q + 1u) & 2u) == 2u) cosine = -cosine;
}
