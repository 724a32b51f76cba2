// exp of a negated magnitude cannot overflow.
float sigmoid(float x) {
    float e = exp(-abs(x));
    return (x >= 0.0 ? 1.0 : e) / (1.0 + e);
}

float silu(float x) {
    return x * sigmoid(x);
}
