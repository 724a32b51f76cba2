// Divisions that are rounded to nearest.

// The sum of two products of 12-bit halves is exact, so is what is left of a − q·b.
precise float rest_of(float a, float q, float b) {
    float q_top = uintBitsToFloat(floatBitsToUint(q) & 0xfffff000u);
    float b_top = uintBitsToFloat(floatBitsToUint(b) & 0xfffff000u);
    float q_low = q - q_top;
    float b_low = b - b_top;
    return (((a - q_top * b_top) - q_top * b_low) - q_low * b_top) - q_low * b_low;
}

// a / b, rounded to nearest: a shader's own may be 2.5 units in the last place
// off, and what is rounded to an integer next would fall otherwise.
precise float divide(float a, float b) {
    float q = a / b;
    return q + rest_of(a, q, b) / b;
}
