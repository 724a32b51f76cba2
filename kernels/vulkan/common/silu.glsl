// x·σ(x); exp of the negated magnitude cannot overflow.
float silu(float x) {
    float e = exp(-abs(x));
    return x * ((x >= 0.0 ? 1.0 : e) / (1.0 + e));
}
