// The last workgroup of a dispatch goes on with what all of them made: one dispatch
// less, and nothing waits. What they leave for it lies in buffers that are declared
// coherent. Include behind base.glsl.

// A counter that is zero before a dispatch and again behind it.
#define COUNTER(b) \
    layout(set = 0, binding = b, scalar) coherent buffer Counter { uint arrived; };

shared uint arrival;

// Whether this workgroup is the last to come here; all of its lanes must.
#define LAST_WORKGROUP(last)                                                    \
    memoryBarrierBuffer();                                                      \
    barrier();                                                                  \
    uint all_groups = gl_NumWorkGroups.x * gl_NumWorkGroups.y;                  \
    if (gl_LocalInvocationID.x == 0) {                                          \
        arrival = atomicAdd(arrived, 1u) + 1;                                   \
        if (arrival == all_groups) atomicExchange(arrived, 0u);                 \
    }                                                                           \
    barrier();                                                                  \
    memoryBarrierBuffer();                                                      \
    bool last = arrival == all_groups;

// Elements of a row that a lane of the last workgroup keeps.
const uint KEPT = 4;

// Z[z_at + i] = Y[y_at + i]·rsqrt(mean(Y²) + eps)·(W[w_at + i] + offset) for n elements.
#define NORM_ROW(Y, y_at, n, W, w_at, Z, z_at, eps, offset)                     \
    {                                                                           \
        uint lane = gl_LocalInvocationID.x;                                     \
        float own[KEPT];                                                        \
        float weight[KEPT];                                                     \
        [[unroll]] for (uint i = 0; i < KEPT; ++i) {                            \
            uint at = min(lane + i * WG, (n) - 1);                              \
            own[i] = Y[(y_at) + at];                                            \
            weight[i] = W[(w_at) + at] + (offset);                              \
        }                                                                       \
        float squares = 0.0;                                                    \
        [[unroll]] for (uint i = 0; i < KEPT; ++i) {                            \
            if (lane + i * WG < (n)) squares += own[i] * own[i];                \
        }                                                                       \
        for (uint i = lane + KEPT * WG; i < (n); i += WG) {                     \
            float v = Y[(y_at) + i];                                            \
            squares += v * v;                                                   \
        }                                                                       \
        float scale = inversesqrt(workgroup_sum(squares) / float(n) + (eps));   \
        [[unroll]] for (uint i = 0; i < KEPT; ++i) {                            \
            uint at = lane + i * WG;                                            \
            if (at < (n)) Z[(z_at) + at] = own[i] * scale * weight[i];          \
        }                                                                       \
        for (uint i = lane + KEPT * WG; i < (n); i += WG) {                     \
            Z[(z_at) + i] = Y[(y_at) + i] * scale * (W[(w_at) + i] + (offset)); \
        }                                                                       \
    }
