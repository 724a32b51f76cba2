// op: gated_delta, 32 rows at a time; the rule as in `recurrent.comp`. With Γᵢ = Πⱼ≤ᵢ gⱼ
// inside a chunk, S₀ the state before it and δᵢ what row i writes (Sᵢ = gᵢ·Sᵢ₋₁ + kᵢ·δᵢ):
//   L = βᵢ·Γᵢ/Γⱼ·(kᵢ·kⱼ) below the diagonal, P = Γᵢ/Γⱼ·(qᵢ·kⱼ) up to it
//   U = (I + L)⁻¹·βᵢ·vᵢ, W = (I + L)⁻¹·βᵢ·Γᵢ·kᵢ
//   δ = U − W·S₀, oᵢ = Γᵢ·qᵢᵀS₀ + (P·δ)ᵢ, S = Γ·S₀ + Σⱼ Γ/Γⱼ·kⱼ·δⱼ
// `chunked_ahead.comp` leaves W, U, P, Γᵢ·qᵢ and Γ/Γⱼ·kⱼ of every row; this goes from
// chunk to chunk. Shapes as in `recurrent.comp`, DK ≤ 128.
// Launch: 128 lanes for each 16 columns of a head's state (x) and span (y); a lane keeps
// four rows by four columns of it, and shared memory all of it, columns as lines.
// Tolerance 5e-5. The chunked form: Yang et al. 2024, derived anew.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/chunks.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer K { float k[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Records4 { vec4 records[]; };
layout(set = 0, binding = 2, scalar) buffer State { float state[]; };
layout(set = 0, binding = 3, scalar) writeonly buffer O { float o[]; };
layout(set = 0, binding = 3, scalar) writeonly buffer O4 { vec4 o4[]; };
STEP_BUFFER(4)

layout(push_constant, scalar) uniform Push {
    uint heads, key_heads;
    uint k_at, k_stride;
    uint records_at;
    uint state_at, slot_stride, slots;
    uint o_at, o_stride;
    uint spans, span_start, state_in, state_out;
    uint tiled;
    // Whether rows of heads of o begin at pieces of 16 bytes.
    uint aligned;
} p;

// Columns of a workgroup, and in pieces of four, one for each lane that shares a row.
const uint COLUMNS = 16;
const uint ACROSS = COLUMNS / 4;
// Pieces of a key, and of a line of the state.
const uint KEY_LINE = KEY_PARTS * LINE;
const uint STATE_PITCH = 2 * LINE + 1;
const uint SQUARE_AT = CHUNK * 2 * LINE;

// 64 columns of W and below them of the queries; then keys, and from SQUARE_AT on P.
shared vec4 tile[SQUARE_AT + CHUNK * SQUARE];
// Line 4e + c is column 4c + e, so that lanes beside each other read other banks.
shared vec4 lines[COLUMNS * STATE_PITCH];
shared vec4 delta[CHUNK * ACROSS];

// What a lane brings to shared memory next, asked for while others are multiplied.
const uint ROWS_EACH = 2 * CHUNK * LINE / 128;
const uint KEYS_EACH = CHUNK * KEY_LINE / 128;
const uint SQUARES_EACH = CHUNK * CHUNK / 4 / 128;
vec4 next[8 + SQUARES_EACH];
vec4 next_u;

uint lane;
uint stride;

// Columns of a part of W and of the queries, from the record `first` on.
void fetch_rows(uint first, uint n, uint part) {
    [[unroll]] for (uint e = 0; e < ROWS_EACH; ++e) {
        uint i = lane + e * 128;
        uint r = i / LINE % CHUNK;
        uint at = (i < CHUNK * LINE ? W_AT : QUERY_AT) + part * LINE + i % LINE;
        next[e] = r < n ? records[first + r * stride + at] : vec4(0.0);
    }
}

void put_rows() {
    [[unroll]] for (uint e = 0; e < ROWS_EACH; ++e) {
        uint i = lane + e * 128;
        tile[i / LINE * PITCH + i % LINE] = next[e];
    }
}

void fetch_keys(uint first, uint n) {
    [[unroll]] for (uint e = 0; e < KEYS_EACH; ++e) {
        uint i = lane + e * 128;
        uint r = i / KEY_LINE;
        next[e] = r < n ? records[first + r * stride + KEY_AT + i % KEY_LINE] : vec4(0.0);
    }
    [[unroll]] for (uint e = 0; e < SQUARES_EACH; ++e) {
        uint i = lane + e * 128;
        uint r = i / (CHUNK / 4);
        next[8 + e] = r < n ? records[first + r * stride + P_AT + i % (CHUNK / 4)] : vec4(0.0);
    }
}

void put_keys() {
    [[unroll]] for (uint e = 0; e < KEYS_EACH; ++e) tile[lane + e * 128] = next[e];
    [[unroll]] for (uint e = 0; e < SQUARES_EACH; ++e) {
        uint i = lane + e * 128;
        tile[SQUARE_AT + i / (CHUNK / 4) * SQUARE + i % (CHUNK / 4)] = next[8 + e];
    }
}

// Of the lane: its rows of the state, its columns and where its cells begin in a slot.
uint d0;
uint column;
uint cell;

void keep(uint slot, vec4 s[4]) {
    [[unroll]] for (uint i = 0; i < 4; ++i) {
        [[unroll]] for (uint e = 0; e < 4; ++e) {
            if (d0 + i < DK && column + e < DV) state[cell + slot * p.slot_stride + i * DV + e] = s[i][e];
        }
    }
}

// The state behind row i of a chunk, s being the one before it.
void keep_inside(uint slot, uint first, uint t0, uint h, uint i, vec4 s[4]) {
    uint from = (p.tiled != 0 ? h % p.key_heads : h / (p.heads / p.key_heads)) * DK;
    float gamma = records[first + i * stride + FACTORS_AT].z;
    [[unroll]] for (uint d = 0; d < 4; ++d) s[d] *= gamma;
    float behind = 0.0;
    for (uint j = i + 1; j-- > 0;) {
        vec4 f = records[first + j * stride + FACTORS_AT];
        vec4 x = exp(behind) * f.y * delta[j * ACROSS + lane % ACROSS];
        uint at = p.k_at + (t0 + j) * p.k_stride + from + d0;
        [[unroll]] for (uint d = 0; d < 4; ++d) {
            if (d0 + d < DK) s[d] += k[at + d] * x;
        }
        behind += f.x;
    }
    keep(slot, s);
}

void main() {
    lane = gl_LocalInvocationID.x;
    uint tiles = (DV + COLUMNS - 1) / COLUMNS;
    uint h = gl_WorkGroupID.x / tiles;
    uint span = gl_WorkGroupID.y;
    if (span >= meta[p.spans]) return;
    uint begin = meta[p.span_start + span];
    uint end = meta[p.span_start + span + 1];
    if (begin >= end) return;
    // A row of a chunk or four of the state, and which four columns.
    uint row = lane / ACROSS;
    uint c = lane % ACROSS;
    d0 = row * 4;
    column = gl_WorkGroupID.x % tiles * COLUMNS + c * 4;
    cell = p.state_at + h * DK * DV + d0 * DV + column;
    stride = p.heads * RECORD;

    vec4 s[4];
    uint slot = meta[p.state_in + span];
    [[unroll]] for (uint i = 0; i < 4; ++i) {
        [[unroll]] for (uint e = 0; e < 4; ++e) {
            bool known = slot < p.slots && d0 + i < DK && column + e < DV;
            s[i][e] = known ? state[cell + slot * p.slot_stride + i * DV + e] : 0.0;
        }
    }
    [[unroll]] for (uint e = 0; e < 4; ++e) {
        lines[(4 * e + c) * STATE_PITCH + row] = vec4(s[0][e], s[1][e], s[2][e], s[3][e]);
    }
    uint first = p.records_at + (begin * p.heads + h) * RECORD;
    uint n = min(end - begin, CHUNK);
    fetch_rows(first, n, 0);
    next_u = row < n ? records[first + row * stride + U_AT + column / 4] : vec4(0.0);
    for (uint t0 = begin; t0 < end; t0 += CHUNK) {
        float gamma = records[first + (n - 1) * stride + FACTORS_AT].z;
        bool inside = records[first + FACTORS_AT].w > 0.0;
        uint last = meta[p.state_out + t0 + n - 1];
        vec4 written = vec4(0.0);
        vec4 sum = vec4(0.0);
        [[unroll]] for (uint part = 0; part < KEY_PARTS; ++part) {
            put_rows();
            barrier();
            if (part + 1 < KEY_PARTS) {
                fetch_rows(first, n, part + 1);
            } else {
                fetch_keys(first, n);
            }
            for (uint d = 0; d < LINE; ++d) {
                vec4 x = tile[row * PITCH + d];
                vec4 y = tile[(CHUNK + row) * PITCH + d];
                [[unroll]] for (uint e = 0; e < 4; ++e) {
                    vec4 z = lines[(4 * e + c) * STATE_PITCH + part * LINE + d];
                    written[e] = dot4(x, z, written[e]);
                    sum[e] = dot4(y, z, sum[e]);
                }
            }
            barrier();
        }
        delta[lane] = next_u - written;
        put_keys();
        barrier();
        uint now = first;
        uint rows = n;
        if (t0 + CHUNK < end) {
            first += CHUNK * stride;
            n = min(end - t0 - CHUNK, CHUNK);
            fetch_rows(first, n, 0);
            next_u = row < n ? records[first + row * stride + U_AT + column / 4] : vec4(0.0);
        }
        if (inside) {
            for (uint i = 0; i + 1 < rows; ++i) {
                uint to = meta[p.state_out + t0 + i];
                if (to < p.slots) keep_inside(to, now, t0, h, i, s);
            }
        }
        [[unroll]] for (uint i = 0; i < 4; ++i) s[i] *= gamma;
        for (uint j = 0; j < rows; j += 4) {
            vec4 x = tile[SQUARE_AT + row * SQUARE + j / 4];
            [[unroll]] for (uint e = 0; e < 4; ++e) {
                // Rows behind the state's last are a next key's: nobody reads them.
                vec4 y = tile[(j + e) * KEY_LINE + min(row, KEY_LINE - 1)];
                vec4 z = delta[(j + e) * ACROSS + c];
                sum += x[e] * z;
                [[unroll]] for (uint i = 0; i < 4; ++i) s[i] += y[i] * z;
            }
        }
        if (row < rows) {
            uint to = p.o_at + (t0 + row) * p.o_stride + h * DV + column;
            if (p.aligned != 0 && column < DV) {
                o4[to / 4] = sum;
            } else {
                [[unroll]] for (uint e = 0; e < 4; ++e) {
                    if (column + e < DV) o[to + e] = sum[e];
                }
            }
        }
        [[unroll]] for (uint e = 0; e < 4; ++e) {
            lines[(4 * e + c) * STATE_PITCH + row] = vec4(s[0][e], s[1][e], s[2][e], s[3][e]);
        }
        if (last < p.slots) keep(last, s);
        barrier();
    }
}
