// log(1 + e) for 0 ≤ e ≤ 1, through the series of artanh: a shader's own log is
// off by 2⁻²¹ near 1.
float log1p_small(float e) {
    bool upper = e > 0.5;
    float y = upper ? (e - 1.0) * 0.5 : e;
    float z = y / (2.0 + y);
    float zz = z * z;
    float s = 2.0 * z * (1.0 + zz * (0.33333333 + zz * (0.2 + zz * (0.14285714 + zz * 0.11111111))));
    return upper ? s + 0.69314718 : s;
}

// log(1 + eˣ) is max(x, 0) + log(1 + e^−|x|).
float softplus(float x) {
    return max(x, 0.0) + log1p_small(exp(-abs(x)));
}
