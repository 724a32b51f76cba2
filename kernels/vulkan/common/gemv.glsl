// Products of one weight row with ROWS rows of x, which share each weight load.
// Lane i takes whole 16-byte pieces i, i + WG, … where rows are aligned, single
// elements else. The shader declares x and x4 over the activations, and p with
// k, x_at, x_stride and aligned.

layout(constant_id = 4) const uint ROWS = 1;

// Rows past the last read the last again.
#define GEMV_ROW(j) (p.x_at + min(r0 + (j), rows - 1) * p.x_stride)

// acc[j] = this lane's share of x[r0 + j]·w[w_row ..]; w as words and
// as pieces of 16 bytes.
#define GEMV(acc, WORDS, PIECES, w_row)                                       \
    for (uint j = 0; j < ROWS; ++j) acc[j] = 0.0;                             \
    if (p.aligned != 0 && SCHEME == F32) {                                    \
        for (uint i = lane; i < p.k / 4; i += WG) {                           \
            vec4 a = uintBitsToFloat(PIECES[(w_row) / 4 + i]);                \
            for (uint j = 0; j < ROWS; ++j) {                                 \
                acc[j] += dot(a, x4[GEMV_ROW(j) / 4 + i]);                    \
            }                                                                 \
        }                                                                     \
    } else if (p.aligned != 0) {                                              \
        for (uint i = lane; i < p.k / 8; i += WG) {                           \
            uvec4 word = PIECES[(w_row) / 8 + i];                             \
            vec4 a = vec4(decode16x2(word.x), decode16x2(word.y));            \
            vec4 b = vec4(decode16x2(word.z), decode16x2(word.w));            \
            for (uint j = 0; j < ROWS; ++j) {                                 \
                uint at = GEMV_ROW(j) / 4 + 2 * i;                            \
                acc[j] += dot(a, x4[at]) + dot(b, x4[at + 1]);                \
            }                                                                 \
        }                                                                     \
    } else {                                                                  \
        for (uint i = lane; i < p.k; i += WG) {                               \
            uint e = (w_row) + i;                                             \
            float a = STORED(WORDS, e);                                       \
            for (uint j = 0; j < ROWS; ++j) acc[j] += a * x[GEMV_ROW(j) + i]; \
        }                                                                     \
    }
