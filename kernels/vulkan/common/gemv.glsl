// Products of a few weight rows with a few rows of x by a team of lanes, which is
// a subgroup where all subgroups are whole, else the workgroup. A lane takes the
// pieces i, i + TEAM, … of a row: groups of 32 elements of block schemes, 16 bytes
// of plain numbers where rows are aligned, single elements else.
//
// The shader declares x and x4 over the activations, p with k and aligned, and
// the macros W_ROW(c), where weight row c begins (in elements of plain numbers, in
// words of blocks), and X_ROW(j), the first element of row j of x.

layout(constant_id = 4) const uint ROWS = 1;
layout(constant_id = 5) const uint COLS = 1;
// Workgroups of several subgroups, each a team of its own.
layout(constant_id = 6) const bool TEAMS = false;
layout(constant_id = 7) const uint TEAM = 8;

uint team_lane() {
    return TEAMS ? gl_SubgroupInvocationID : gl_LocalInvocationID.x;
}

uint team_index() {
    return TEAMS ? gl_WorkGroupID.x * gl_NumSubgroups + gl_SubgroupID : gl_WorkGroupID.x;
}

uint team_count() {
    return TEAMS ? gl_NumWorkGroups.x * gl_NumSubgroups : gl_NumWorkGroups.x;
}

float team_sum(float v) {
    return TEAMS ? subgroupAdd(v) : workgroup_sum(v);
}

#define X_ALIGNED(j, i) x4[X_ROW(j) / 4 + (i)]
#define X_SINGLE(j, i)                                                           \
    vec4(x[X_ROW(j) + 4 * (i)], x[X_ROW(j) + 4 * (i) + 1], x[X_ROW(j) + 4 * (i) + 2], \
         x[X_ROW(j) + 4 * (i) + 3])

// Scales are applied to whole halves of a group: with s the sum of x there, its
// share is scale·Σ code·x + (low − scale·zero)·s.
#define GEMV_GROUPS(acc, READ, X_AT)                                             \
    for (uint g = lane; g < p.k / 32; g += TEAM) {                               \
        vec2 sums[ROWS];                                                         \
        for (uint j = 0; j < ROWS; ++j) {                                        \
            vec4 lo = X_AT(j, 8 * g) + X_AT(j, 8 * g + 1) + X_AT(j, 8 * g + 2)   \
                + X_AT(j, 8 * g + 3);                                            \
            vec4 hi = X_AT(j, 8 * g + 4) + X_AT(j, 8 * g + 5)                    \
                + X_AT(j, 8 * g + 6) + X_AT(j, 8 * g + 7);                       \
            sums[j] = vec2(dot(lo, vec4(1.0)), dot(hi, vec4(1.0)));              \
        }                                                                        \
        for (uint c = 0; c < COLS; ++c) {                                        \
            Group b = READ(W_ROW(c), p.k / 32, g);                               \
            vec2 part[ROWS];                                                     \
            for (uint j = 0; j < ROWS; ++j) part[j] = vec2(0.0);                 \
            [[unroll]] for (uint q = 0; q < 4; ++q) {                            \
                vec4 lo = quad_numbers(b, q);                                    \
                vec4 hi = quad_numbers(b, q + 4);                                \
                for (uint j = 0; j < ROWS; ++j) {                                \
                    part[j] += vec2(dot(lo, X_AT(j, 8 * g + q)),                 \
                                    dot(hi, X_AT(j, 8 * g + q + 4)));            \
                }                                                                \
            }                                                                    \
            vec2 rest = b.low - b.scale * b.zero;                                \
            for (uint j = 0; j < ROWS; ++j) {                                    \
                acc[c * ROWS + j] += dot(b.scale, part[j]) + dot(rest, sums[j]); \
            }                                                                    \
        }                                                                        \
    }

// acc[c * ROWS + j] = this lane's share of x[j]·w[c].
#define GEMV(acc, READ, WORDS, PIECES)                                           \
    for (uint i = 0; i < ROWS * COLS; ++i) acc[i] = 0.0;                         \
    if (IN_BLOCKS && p.aligned != 0) {                                           \
        GEMV_GROUPS(acc, READ, X_ALIGNED)                                        \
    } else if (IN_BLOCKS) {                                                      \
        GEMV_GROUPS(acc, READ, X_SINGLE)                                         \
    } else if (p.aligned != 0 && SCHEME == F32) {                                \
        for (uint i = lane; i < p.k / 4; i += TEAM) {                            \
            for (uint c = 0; c < COLS; ++c) {                                    \
                vec4 a = uintBitsToFloat(PIECES[W_ROW(c) / 4 + i]);              \
                for (uint j = 0; j < ROWS; ++j) {                                \
                    acc[c * ROWS + j] += dot(a, X_ALIGNED(j, i));                \
                }                                                                \
            }                                                                    \
        }                                                                        \
    } else if (p.aligned != 0) {                                                 \
        for (uint i = lane; i < p.k / 8; i += TEAM) {                            \
            for (uint c = 0; c < COLS; ++c) {                                    \
                uvec4 word = PIECES[W_ROW(c) / 8 + i];                           \
                vec4 a = vec4(decode16x2(word.x), decode16x2(word.y));           \
                vec4 b = vec4(decode16x2(word.z), decode16x2(word.w));           \
                for (uint j = 0; j < ROWS; ++j) {                                \
                    acc[c * ROWS + j] +=                                         \
                        dot(a, X_ALIGNED(j, 2 * i)) + dot(b, X_ALIGNED(j, 2 * i + 1)); \
                }                                                                \
            }                                                                    \
        }                                                                        \
    } else {                                                                     \
        for (uint i = lane; i < p.k; i += TEAM) {                                \
            for (uint c = 0; c < COLS; ++c) {                                    \
                uint e = W_ROW(c) + i;                                           \
                float a = STORED(WORDS, e);                                      \
                for (uint j = 0; j < ROWS; ++j) acc[c * ROWS + j] += a * x[X_ROW(j) + i]; \
            }                                                                    \
        }                                                                        \
    }
