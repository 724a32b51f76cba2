// The first half of the delta rule in chunks: what does not need the state, of all
// chunks at once. See `chunked.comp`.
// Launch: 128 lanes for each chunk of 32 rows (x) of a value head (y); a chunk ends with
// its span.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/silu.glsl"
#include "../common/softplus.glsl"
#include "../common/chunks.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer Q { float q[]; };
layout(set = 0, binding = 0, scalar) readonly buffer Q4 { vec4 q4[]; };
layout(set = 0, binding = 1, scalar) readonly buffer K { float k[]; };
layout(set = 0, binding = 1, scalar) readonly buffer K4 { vec4 k4[]; };
layout(set = 0, binding = 2, scalar) readonly buffer V { float v[]; };
layout(set = 0, binding = 2, scalar) readonly buffer V4 { vec4 v4[]; };
layout(set = 0, binding = 3, scalar) readonly buffer A { float a[]; };
layout(set = 0, binding = 4, scalar) readonly buffer B { float b[]; };
layout(set = 0, binding = 5, scalar) readonly buffer Decay { float decay[]; };
layout(set = 0, binding = 6, scalar) readonly buffer DtBias { float dt_bias[]; };
layout(set = 0, binding = 7, scalar) writeonly buffer Records { float records[]; };
layout(set = 0, binding = 7, scalar) writeonly buffer Records4 { vec4 records4[]; };
STEP_BUFFER(8)

layout(push_constant, scalar) uniform Push {
    uint heads, key_heads;
    uint q_at, q_stride;
    uint k_at, k_stride;
    uint v_at, v_stride;
    uint a_at, a_stride;
    uint b_at, b_stride;
    uint decay_at, dt_bias_at;
    uint records_at;
    uint spans, span_start, state_out, slots;
    uint log_decay, tiled;
    // Whether rows of heads of q, k and v begin at pieces of 16 bytes.
    uint aligned;
} p;

// Keys, then queries; later what (I + L)⁻¹ is multiplied with, then that.
shared vec4 tiles[2 * CHUNK * PITCH];
const uint SECOND = CHUNK * PITCH;
const uint WIDE = CHUNK + 4;
shared float lower[CHUNK * WIDE];
// Sums of log g from row c to row i at [i, c]; later the inverse.
shared float sums[CHUNK * WIDE];
shared float between[CHUNK * CHUNK / 4];
// Of each row: log g, beta, the factors to length one, whether its state is kept.
shared float logs[CHUNK];
shared float betas[CHUNK];
shared float norms[2 * CHUNK];
shared float kept[CHUNK];
// Of each row: what k, v, q and k are multiplied by for W, U and the second half.
shared float scales[4 * CHUNK];

#define LOADER(NAME, NUMBERS, PIECES)                                         \
    vec4 NAME(uint row, uint c, uint width) {                                 \
        if (p.aligned != 0) return c < width ? PIECES[(row + c) / 4] : vec4(0.0); \
        vec4 x;                                                               \
        [[unroll]] for (uint e = 0; e < 4; ++e) {                             \
            x[e] = c + e < width ? NUMBERS[row + c + e] : 0.0;                \
        }                                                                     \
        return x;                                                             \
    }
LOADER(load_q, q, q4)
LOADER(load_k, k, k4)
LOADER(load_v, v, v4)

// Γᵢ/Γⱼ for j ≤ i.
float ratio(uint i, uint j) {
    return j == i ? 1.0 : exp(sums[i * WIDE + j + 1]);
}

// (I + L)⁻¹ into `sums`: of two inverted blocks on the diagonal, A above and B below,
// with C beside A and above B left in L, the inverse has −B·C·A there.
void invert() {
    uint lane = gl_LocalInvocationID.x;
    for (uint i = lane; i < CHUNK * CHUNK; i += WG) {
        sums[i / CHUNK * WIDE + i % CHUNK] = i / CHUNK == i % CHUNK ? 1.0 : 0.0;
    }
    barrier();
    for (uint size = 1; size < CHUNK; size *= 2) {
        uint all = CHUNK / 2 * size;
        for (uint i = lane; i < all; i += WG) {
            uint corner = 2 * size * (i / (size * size));
            float sum = 0.0;
            for (uint e = 0; e < size; ++e) {
                sum += lower[(corner + size + i / size % size) * WIDE + corner + e]
                    * sums[(corner + e) * WIDE + corner + i % size];
            }
            between[i] = sum;
        }
        barrier();
        for (uint i = lane; i < all; i += WG) {
            uint corner = 2 * size * (i / (size * size));
            uint to = (corner + size + i / size % size) * WIDE + corner;
            float sum = 0.0;
            for (uint e = 0; e < size; ++e) {
                sum += sums[to + size + e] * between[(i / (size * size) * size + e) * size + i % size];
            }
            sums[to + i % size] = -sum;
        }
        barrier();
    }
}

// Four rows and columns of the inverse times what lies in the first tile.
void product(uint to, uint stride, uint n) {
    uint i = gl_LocalInvocationID.x / LINE * 4;
    uint c = gl_LocalInvocationID.x % LINE;
    vec4 y[4] = vec4[4](vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
    for (uint j = 0; j <= i / 4; ++j) {
        vec4 z[4];
        [[unroll]] for (uint e = 0; e < 4; ++e) z[e] = tiles[(4 * j + e) * PITCH + c];
        [[unroll]] for (uint r = 0; r < 4; ++r) {
            vec4 x = tiles[SECOND + (i + r) * SQUARE + j];
            [[unroll]] for (uint e = 0; e < 4; ++e) y[r] += x[e] * z[e];
        }
    }
    [[unroll]] for (uint r = 0; r < 4; ++r) {
        if (i + r < n) records4[to + (i + r) * stride + c] = y[r];
    }
}

void main() {
    uint lane = gl_LocalInvocationID.x;
    uint h = gl_WorkGroupID.y;
    uint spans = meta[p.spans];
    uint chunk = gl_WorkGroupID.x;
    uint t0 = 0;
    uint end = 0;
    bool found = false;
    for (uint span = 0; span < spans; ++span) {
        uint begin = meta[p.span_start + span];
        end = meta[p.span_start + span + 1];
        uint chunks = (end - begin + CHUNK - 1) / CHUNK;
        if (chunk < chunks) {
            t0 = begin + chunk * CHUNK;
            found = true;
            break;
        }
        chunk -= chunks;
    }
    if (!found) return;
    uint n = min(end - t0, CHUNK);
    uint from = (p.tiled != 0 ? h % p.key_heads : h / (p.heads / p.key_heads)) * DK;
    uint q_at = p.q_at + t0 * p.q_stride + from;
    uint k_at = p.k_at + t0 * p.k_stride + from;
    uint v_at = p.v_at + t0 * p.v_stride + h * DV;
    uint stride = p.heads * RECORD;
    uint to = p.records_at + (t0 * p.heads + h) * RECORD;

    // k·k and q·k, of each two rows by four columns.
    uint i0 = lane / 8 * 2;
    uint j0 = lane % 8;
    vec4 keys[2] = vec4[2](vec4(0.0), vec4(0.0));
    vec4 queries[2] = vec4[2](vec4(0.0), vec4(0.0));
    float squares = 0.0;
    for (uint part = 0; part < KEY_PARTS; ++part) {
        for (uint i = lane; i < CHUNK * LINE; i += WG) {
            uint r = i / LINE;
            uint c = part * PART + i % LINE * 4;
            uint at = r * PITCH + i % LINE;
            tiles[at] = r < n ? load_k(k_at + r * p.k_stride, c, DK) : vec4(0.0);
            tiles[SECOND + at] = r < n ? load_q(q_at + r * p.q_stride, c, DK) : vec4(0.0);
        }
        barrier();
        if (lane < 2 * CHUNK) {
            [[unroll]] for (uint d = 0; d < LINE; ++d) {
                vec4 x = tiles[lane * PITCH + d];
                squares = dot4(x, x, squares);
            }
        }
        for (uint d = 0; d < LINE; ++d) {
            vec4 x[4];
            [[unroll]] for (uint r = 0; r < 2; ++r) {
                x[r] = tiles[(i0 + r) * PITCH + d];
                x[2 + r] = tiles[SECOND + (i0 + r) * PITCH + d];
            }
            [[unroll]] for (uint e = 0; e < 4; ++e) {
                vec4 z = tiles[(j0 + 8 * e) * PITCH + d];
                [[unroll]] for (uint r = 0; r < 2; ++r) {
                    keys[r][e] = dot4(x[r], z, keys[r][e]);
                    queries[r][e] = dot4(x[2 + r], z, queries[r][e]);
                }
            }
        }
        barrier();
    }
    if (lane < 2 * CHUNK) {
        float f = 1.0 / sqrt(squares + 1e-6);
        norms[lane] = lane < CHUNK ? f : f / sqrt(float(DK));
    } else if (lane < 3 * CHUNK) {
        uint i = lane - 2 * CHUNK;
        float own = 0.0;
        float beta = 0.0;
        if (i < n) {
            float d = decay[p.decay_at + h];
            float rate = p.log_decay != 0 ? -exp(d) : d;
            own = rate * softplus(a[p.a_at + (t0 + i) * p.a_stride + h] + dt_bias[p.dt_bias_at + h]);
            beta = sigmoid(b[p.b_at + (t0 + i) * p.b_stride + h]);
        }
        logs[i] = own;
        betas[i] = beta;
    } else if (lane < 4 * CHUNK) {
        uint i = lane - 3 * CHUNK;
        kept[i] = i + 1 < n && meta[p.state_out + t0 + i] < p.slots ? 1.0 : 0.0;
    }
    barrier();
    // Sums of their own, not differences of sums: those would lose what is small.
    if (lane < CHUNK) {
        float sum = 0.0;
        for (uint i = lane; i < CHUNK; ++i) {
            sum += logs[i];
            sums[i * WIDE + lane] = sum;
        }
    }
    barrier();
    if (lane < CHUNK) {
        float gamma = exp(sums[lane * WIDE]);
        float key = norms[lane];
        scales[lane] = betas[lane] * gamma * key;
        scales[CHUNK + lane] = betas[lane];
        scales[2 * CHUNK + lane] = gamma * norms[CHUNK + lane];
        scales[3 * CHUNK + lane] = ratio(CHUNK - 1, lane) * key;
        float inside = 0.0;
        if (lane == 0) {
            for (uint i = 0; i < CHUNK; ++i) inside += kept[i];
        }
        if (lane < n) records4[to + lane * stride + FACTORS_AT] = vec4(logs[lane], key, gamma, inside);
    }
    [[unroll]] for (uint r = 0; r < 2; ++r) {
        [[unroll]] for (uint e = 0; e < 4; ++e) {
            uint i = i0 + r;
            uint j = j0 + 8 * e;
            float f = j <= i ? ratio(i, j) * norms[j] : 0.0;
            if (i < n) records[(to + i * stride + P_AT) * 4 + j] = f * norms[CHUNK + i] * queries[r][e];
            lower[i * WIDE + j] = j < i ? betas[i] * f * norms[i] * keys[r][e] : 0.0;
        }
    }
    barrier();
    invert();
    for (uint i = lane; i < CHUNK * CHUNK / 4; i += WG) {
        uint at = i / (CHUNK / 4) * WIDE + i % (CHUNK / 4) * 4;
        tiles[SECOND + i / (CHUNK / 4) * SQUARE + i % (CHUNK / 4)] =
            vec4(sums[at], sums[at + 1], sums[at + 2], sums[at + 3]);
    }
    for (uint part = 0; part < KEY_PARTS + VALUE_PARTS; ++part) {
        bool keys = part < KEY_PARTS;
        uint c0 = keys ? part : part - KEY_PARTS;
        for (uint i = lane; i < CHUNK * LINE; i += WG) {
            uint r = i / LINE;
            uint c = c0 * PART + i % LINE * 4;
            vec4 x = vec4(0.0);
            if (r < n && keys) {
                x = load_k(k_at + r * p.k_stride, c, DK);
                vec4 y = load_q(q_at + r * p.q_stride, c, DK);
                records4[to + r * stride + QUERY_AT + c / 4] = scales[2 * CHUNK + r] * y;
                records4[to + r * stride + KEY_AT + c / 4] = scales[3 * CHUNK + r] * x;
            } else if (r < n) {
                x = load_v(v_at + r * p.v_stride, c, DV);
            }
            tiles[r * PITCH + i % LINE] = scales[(keys ? 0 : CHUNK) + r] * x;
        }
        barrier();
        product(to + (keys ? W_AT : U_AT) + c0 * LINE, stride, n);
        barrier();
    }
}
