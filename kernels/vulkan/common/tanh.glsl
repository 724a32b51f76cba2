// tanh to a few units in the last place: a shader's own may be off by far more,
// and near zero the quotient of exponentials cancels.
float exact_tanh(float x) {
    float a = abs(x);
    if (a < 0.25) {
        float z = x * x;
        return x * (1.0 + z * (-0.33333333 + z * (0.13333333 + z * (-0.053968254 + z * 0.021869489))));
    }
    float e = exp(-2.0 * a);
    float t = (1.0 - e) / (1.0 + e);
    return x < 0.0 ? -t : t;
}
