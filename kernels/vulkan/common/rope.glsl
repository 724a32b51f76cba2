// Element i of a head after its rotation. The shader declares `table` and p with
// first, half_dim and interleaved; AT(i) is element i before, `turn` the row's place
// in the table.
#define ROTATED(v, i, turn, AT)                                                    \
    {                                                                              \
        v = AT(i);                                                                 \
        /* Before `first` the difference wraps to far beyond. */                   \
        uint turned = (i) - p.first;                                               \
        if (turned < 2 * p.half_dim) {                                             \
            bool pairs = p.interleaved != 0;                                       \
            bool is_a = pairs ? (turned & 1u) == 0 : turned < p.half_dim;          \
            uint pair = pairs ? turned / 2 : (is_a ? turned : turned - p.half_dim); \
            uint apart = pairs ? 1 : p.half_dim;                                   \
            float c = table[(turn) + pair];                                        \
            float s = table[(turn) + p.half_dim + pair];                           \
            v = is_a ? v * c - AT((i) + apart) * s : v * c + AT((i) - apart) * s;  \
        }                                                                          \
    }
