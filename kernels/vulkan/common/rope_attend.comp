// ops: [rms_norm+rms_norm+]rope+rope+kv_append+attention, one row, heads of up to 256,
// caches in f16 and int8_kv. q' = rope(norm(q)); the cache takes rope(norm(k)) and v at
// the row's position; o = attention(q', cache). Norms are of heads.
// q, o f32 [1, heads, D], k, v f32 [1, kv_heads, D], norm weights f32 [D], table f32
// [1, rotary_dim], sinks f32 [heads]?; pages as `attention/split.comp` takes them.
// Launch: one workgroup for each HEADS query heads of one kv head (x) and split of the
// visible positions (y). Each norms and turns its own queries; the one with the last
// positions makes the row's key and value, takes them from shared memory and stores
// them, so that none waits for another. The last of the splits joins them in their
// order; `arrived` counts them for each x and is zero between dispatches.
// Tolerance 2e-4: a turned rounding of the key.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_16bit_storage : require
#include "../common/base.glsl"
#include "../common/stored.glsl"
#include "../common/scaled.glsl"
#include "../common/round.glsl"
#include "../common/divide.glsl"
#include "../common/tanh.glsl"
#include "../common/rope.glsl"

layout(constant_id = 4) const uint DIM = 64;
layout(constant_id = 5) const uint HEADS = 1;
// Tokens of a block.
layout(constant_id = 6) const uint BLOCK = 16;
layout(constant_id = 7) const bool NORMED = false;

// Elements of a piece of 16 bytes, and vectors of four of them.
const uint EACH = SCALED ? 16 : 8;
const uint QUADS = EACH / 4;
const uint PIECES = DIM / EACH;
const uint HEAD_QUADS = DIM / 4;
// Lanes that score a key together, keys of each of them, and pieces of each of those.
const uint SHARE = PIECES % 4 == 0 ? 4 : (PIECES % 2 == 0 ? 2 : 1);
const uint KEYS = SHARE == 4 && PIECES <= 16 ? 2 : 1;
const uint LOADS = PIECES / SHARE;
// Positions of a turn: all of their keys and values are on their way at once.
const uint TILE = WG / SHARE * KEYS;
// Positions whose values are added at once, and those of a lane.
const uint SUBSETS = WG / PIECES;
const uint VALUES = (TILE + SUBSETS - 1) / SUBSETS;
// In the softmax a lane has one position, and every PARTS-th head.
const uint PARTS = WG / TILE;
const uint MINE = (HEADS + PARTS - 1) / PARTS;
// Positions of a split, at least: fewer are sooner seen than joined.
const uint LEAST = 2 * TILE;
// Quads of the queries and of the key for each lane.
const uint ALL_QUADS = (HEADS + 1) * HEAD_QUADS;
const uint OWN_QUADS = (ALL_QUADS + WG - 1) / WG;
const uint OWN_ANGLES = (DIM + WG - 1) / WG;
// Heads whose sums are joined at once in the scratch: one at least, WG being 256 at most.
const uint SCRATCH = 4096;
const uint ROOM = SCRATCH / (WG * EACH);
const uint ROUND = ROOM < HEADS ? ROOM : HEADS;
// Vectors of a partial result: Σ weight·v, then the largest score and Σ weight.
const uint PART = HEAD_QUADS + 1;
const uint MOST_SPLITS = 64;
// Partial results that are loaded before the first is used.
const uint AHEAD = 16;
const float NOTHING = -3.0e38;

layout(set = 0, binding = 0, scalar) readonly buffer Q { float q[]; };
layout(set = 0, binding = 1, scalar) readonly buffer K { float k[]; };
layout(set = 0, binding = 2, scalar) readonly buffer V { float v[]; };
layout(set = 0, binding = 3, scalar) readonly buffer QWeight { float q_weight[]; };
layout(set = 0, binding = 4, scalar) readonly buffer KWeight { float k_weight[]; };
layout(set = 0, binding = 5, scalar) readonly buffer Angles { float angles[]; };
layout(set = 0, binding = 6, scalar) readonly buffer Sinks { float sinks[]; };
layout(set = 0, binding = 7, scalar) readonly buffer Cache { uvec4 cache[]; };
layout(set = 0, binding = 7, scalar) readonly buffer Words { uint words[]; };
layout(set = 0, binding = 7, scalar) writeonly buffer Pieces { uvec4 cache_pieces[]; };
layout(set = 0, binding = 7, scalar) writeonly buffer Cache16 { uint16_t cache16[]; };
layout(set = 0, binding = 8, scalar) writeonly buffer O { float o[]; };
layout(set = 0, binding = 9, scalar) coherent buffer Parts { vec4 parts[]; };
layout(set = 0, binding = 10, scalar) coherent buffer Arrived { uint arrived[]; };
STEP_BUFFER(11)

// Offsets and strides of the cache and the parts are in pieces of 16 bytes, of the
// scales in f16 numbers.
layout(push_constant, scalar) uniform Push {
    uint rows;
    uint group, splits;
    uint q_at, k_at, v_at;
    uint q_weight_at, k_weight_at;
    uint table_at;
    uint first, half_dim, interleaved;
    uint sinks_at, has_sinks;
    uint o_at, parts_at;
    uint cache_at, page_stride, kv_stride, head_stride, token_stride;
    uint scales_at;
    uint pages;
    uint positions, row_span;
    uint pages_at, blocks;
    uint window;
    float eps, weight_offset;
    float scale, softcap;
} p;

#include "../common/store_scaled.glsl"

shared float table[DIM];
shared vec4 query[HEADS * DIM / 4];
// The row's key and value: as numbers, then as the cache has them, and their scales.
shared vec4 fresh[2 * DIM / 4];
shared uvec4 own_piece[2 * PIECES];
shared float own_scale[2];
// The heads and the squares of their quads; then of each lane and head its part of the
// scores; then sums of values; then the splits'.
shared float scratch[SCRATCH];
const uint SQUARES = 4 * ALL_QUADS;
shared float weight[HEADS * TILE];
// Of each head and subgroup (of four lanes at least): the largest score, Σ weight.
shared float highest[HEADS * TILE / 4];
shared float totals[HEADS * TILE / 4];
// Of each head, at the end: a factor of the sum of values, and what divides it.
shared float keeps[HEADS];
shared float sums[HEADS];
shared bool last;

vec4 quad(uvec4 piece, uint i) {
    if (SCALED) return codes(piece[i]);
    return vec4(decode16x2(piece[(2 * i) & 3]), decode16x2(piece[(2 * i + 1) & 3]));
}

float sink_of(uint head) {
    return p.has_sinks != 0 ? sinks[p.sinks_at + head] : NOTHING;
}

// A lane's quads of the queries and the key, and of the weights of their norms.
vec4 x[OWN_QUADS];
vec4 w[OWN_QUADS];

// Queries and the key, normed.
void norm_heads(uint lane) {
    [[unroll]] for (uint n = 0; n < OWN_QUADS; ++n) {
        uint i = lane + n * WG;
        if (i < ALL_QUADS) scratch[SQUARES + i] = dot(x[n], x[n]);
    }
    barrier();
    [[unroll]] for (uint n = 0; n < OWN_QUADS; ++n) {
        uint i = lane + n * WG;
        if (i >= ALL_QUADS) break;
        vec4 y = x[n];
        if (NORMED) {
            uint from = i / HEAD_QUADS * HEAD_QUADS;
            float sum = 0.0;
            [[unroll]] for (uint j = 0; j < HEAD_QUADS; ++j) sum += scratch[SQUARES + from + j];
            y *= inversesqrt(sum / float(DIM) + p.eps) * (w[n] + p.weight_offset);
        }
        [[unroll]] for (uint e = 0; e < 4; ++e) scratch[4 * i + e] = y[e];
    }
    barrier();
}

// From there turned to `query` and `fresh`.
void turn_heads(uint lane) {
    [[unroll]] for (uint n = 0; n < OWN_QUADS; ++n) {
        uint i = lane + n * WG;
        if (i >= ALL_QUADS) break;
        uint head = i / HEAD_QUADS;
        uint d = i % HEAD_QUADS * 4;
        vec4 y;
#define NORMED_AT(j) scratch[head * DIM + (j)]
        [[unroll]] for (uint e = 0; e < 4; ++e) {
            float turned_e;
            ROTATED(turned_e, d + e, 0, NORMED_AT)
            y[e] = turned_e;
        }
        if (head < HEADS) query[i] = p.scale * y;
        else fresh[d / 4] = y;
    }
    barrier();
}

// The row's key and value as the cache has them, and, where this workgroup is to, into
// the cache: `entry` is the key's first piece there, `scale_at` its scale.
void make(uint lane, bool stores, uint entry, uint scale_at) {
    if (lane < 2 * PIECES) {
        uint of = lane / PIECES;
        uint piece = lane % PIECES;
        uint from = of * HEAD_QUADS;
        uvec4 made;
        if (SCALED) {
            vec4 most = vec4(0.0);
            [[unroll]] for (uint i = 0; i < HEAD_QUADS; ++i) most = max(most, abs(fresh[from + i]));
            float m = max(max(most.x, most.y), max(most.z, most.w));
            float s = store_scale(scale_at + of * p.kv_stride * 8, m, stores && piece == 0);
            if (piece == 0) own_scale[of] = s;
            [[unroll]] for (uint i = 0; i < 4; ++i) {
                vec4 x = fresh[from + piece * QUADS + (i & (QUADS - 1))];
                made[i] = code_of(x.x, s) | (code_of(x.y, s) << 8) | (code_of(x.z, s) << 16) | (code_of(x.w, s) << 24);
            }
        } else {
            [[unroll]] for (uint i = 0; i < 2; ++i) {
                vec4 x = fresh[from + piece * QUADS + i];
                made[2 * i] = to_f16(x.x) | (to_f16(x.y) << 16);
                made[2 * i + 1] = to_f16(x.z) | (to_f16(x.w) << 16);
            }
        }
        own_piece[lane] = made;
        if (stores) cache_pieces[entry + of * p.kv_stride + piece] = made;
    }
    barrier();
}

// All lanes of the last split's workgroup call: o of its heads from n partial results.
void join(uint lane, uint first_head, uint n) {
    uint from = p.parts_at + first_head * p.splits * PART;
    const uint SUMS = HEADS * MOST_SPLITS;
    const uint SHARES = 2 * HEADS * MOST_SPLITS;
    for (uint i = lane; i < HEADS * n; i += WG) {
        uint h = i / n;
        uint s = i % n;
        vec4 found = parts[from + (h * p.splits + s) * PART + HEAD_QUADS];
        scratch[h * MOST_SPLITS + s] = found.x;
        scratch[SUMS + h * MOST_SPLITS + s] = found.y;
    }
    barrier();
    for (uint i = lane; i < HEADS * n; i += WG) {
        uint h = i / n;
        uint s = i % n;
        float sink = sink_of(first_head + h);
        float top = sink;
        for (uint j = 0; j < n; ++j) top = max(top, scratch[h * MOST_SPLITS + j]);
        scratch[SHARES + h * MOST_SPLITS + s] = exp(scratch[h * MOST_SPLITS + s] - top);
        if (s == 0) sums[h] = p.has_sinks != 0 ? exp(sink - top) : 0.0;
    }
    barrier();
    for (uint i = lane; i < HEADS * HEAD_QUADS; i += WG) {
        uint h = i / HEAD_QUADS;
        uint d = i % HEAD_QUADS;
        vec4 sum = vec4(0.0);
        float total = sums[h];
        for (uint s = 0; s < n; s += AHEAD) {
            vec4 next[AHEAD];
            [[unroll]] for (uint j = 0; j < AHEAD; ++j) {
                next[j] = parts[from + (h * p.splits + min(s + j, n - 1)) * PART + d];
            }
            [[unroll]] for (uint j = 0; j < AHEAD; ++j) {
                if (s + j >= n) break;
                float share = scratch[SHARES + h * MOST_SPLITS + s + j];
                sum += share * next[j];
                total += share * scratch[SUMS + h * MOST_SPLITS + s + j];
            }
        }
        [[unroll]] for (uint e = 0; e < 4; ++e) {
            o[p.o_at + (first_head + h) * DIM + 4 * d + e] = sum[e] / total;
        }
    }
}

void main() {
    if (REAL_ROWS(p.rows) == 0) return;
    // Subgroups are whole, and a lane's place in its own matters below.
    uint lane = gl_SubgroupID * gl_SubgroupSize + gl_SubgroupInvocationID;
    uint cut = gl_WorkGroupID.y;
    uint first_head = gl_WorkGroupID.x * HEADS;
    uint kv = first_head / p.group;
    uint position = meta[p.positions];
    uint pages = p.pages_at + meta[p.row_span] * p.blocks;

    // What waits for nothing is asked for at once.
    [[unroll]] for (uint n = 0; n < OWN_QUADS; ++n) {
        uint i = min(lane + n * WG, ALL_QUADS - 1);
        bool of_q = i < HEADS * HEAD_QUADS;
        uint d = i % HEAD_QUADS * 4;
        uint from = p.q_at + first_head * DIM + 4 * i;
        if (!of_q) from = p.k_at + kv * DIM + d;
        w[n] = vec4(0.0);
        [[unroll]] for (uint e = 0; e < 4; ++e) {
            x[n][e] = of_q ? q[from + e] : k[from + e];
            if (NORMED) {
                w[n][e] = of_q ? q_weight[p.q_weight_at + d + e] : k_weight[p.k_weight_at + d + e];
            }
        }
    }
    vec4 value;
    uint value_at = p.v_at + kv * DIM + 4 * min(lane, HEAD_QUADS - 1);
    [[unroll]] for (uint e = 0; e < 4; ++e) value[e] = v[value_at + e];
    float angle[OWN_ANGLES];
    [[unroll]] for (uint n = 0; n < OWN_ANGLES; ++n) {
        uint i = lane + n * WG;
        angle[n] = i < 2 * p.half_dim ? angles[p.table_at + i] : 0.0;
    }

    // The positions of this split; how many there are depends on nothing else.
    uint seen_from = p.window != 0 && position + 1 > p.window ? position + 1 - p.window : 0;
    uint seen = position + 1 - seen_from;
    uint n = min(p.splits, (seen + LEAST - 1) / LEAST);
    uint chunk = ((seen + n - 1) / n + TILE - 1) / TILE * TILE;
    n = (seen + chunk - 1) / chunk;
    if (cut >= n) return;
    uint from = seen_from + cut * chunk;
    uint end = min(from + chunk, position + 1);
    bool makes = end == position + 1;

    uint base = p.cache_at + kv * p.head_stride;
    uint scales = p.scales_at + kv * BLOCK;
    uint sharer = lane % SHARE;
    uint piece = lane % PIECES;
    uint subset = lane / PIECES;
    bool adds = subset < SUBSETS;
    uint key_place[KEYS];
    uint value_place[VALUES];
    uint scale_place;
    uvec4 keys[KEYS * LOADS];
    uvec4 values[VALUES];
    vec2 scale = vec2(1.0);
    // Behind the last position stands the last one, which is there.
#define PLACE(pos) (base + meta[pages + (pos) / BLOCK] * p.page_stride + (pos) % BLOCK * p.token_stride)
#define FIND(at)                                                                           \
    [[unroll]] for (uint u = 0; u < KEYS; ++u) {                                           \
        uint pos = min((at) + lane / SHARE + u * (WG / SHARE), end - 1);                   \
        key_place[u] = PLACE(pos) + sharer;                                                \
    }                                                                                      \
    [[unroll]] for (uint i = 0; i < VALUES; ++i) {                                         \
        uint pos = min((at) + subset + i * SUBSETS, end - 1);                              \
        value_place[i] = PLACE(pos) + p.kv_stride + piece;                                 \
    }                                                                                      \
    if (SCALED) {                                                                          \
        uint pos = min((at) + lane % TILE, end - 1);                                       \
        scale_place = scales + meta[pages + pos / BLOCK] * p.page_stride * 8 + pos % BLOCK; \
    }
#define LOAD_KEYS                                                                   \
    [[unroll]] for (uint u = 0; u < KEYS; ++u) {                                    \
        [[unroll]] for (uint c = 0; c < LOADS; ++c) {                               \
            keys[u * LOADS + c] = cache[key_place[u] + c * SHARE];                  \
        }                                                                           \
    }                                                                               \
    if (SCALED) {                                                                   \
        scale = vec2(SCALE(words, scale_place), SCALE(words, scale_place + p.kv_stride * 8)); \
    }
#define LOAD_VALUES \
    [[unroll]] for (uint i = 0; i < VALUES; ++i) values[i] = cache[value_place[i]];

    uint page = meta[pages + position / BLOCK];
    FIND(from)
    LOAD_KEYS
    LOAD_VALUES

    if (lane < HEAD_QUADS) fresh[HEAD_QUADS + lane] = value;
    [[unroll]] for (uint i = 0; i < OWN_ANGLES; ++i) {
        if (lane + i * WG < DIM) table[lane + i * WG] = angle[i];
    }
    norm_heads(lane);
    turn_heads(lane);
    if (makes) {
        uint entry = base + page * p.page_stride + position % BLOCK * p.token_stride;
        uint scale_at = scales + page * p.page_stride * 8 + position % BLOCK;
        // One of those that share a kv head stores. A row without a page is the
        // runtime's mistake; it must not be written over another sequence.
        bool stores = first_head % p.group == 0 && page < p.pages;
        make(lane, stores, entry, scale_at);
    }

    vec4 own[HEADS * QUADS];
    float top[HEADS];
    [[unroll]] for (uint h = 0; h < HEADS; ++h) {
        [[unroll]] for (uint i = 0; i < QUADS; ++i) own[h * QUADS + i] = vec4(0.0);
        top[h] = NOTHING;
    }
    float own_sum[MINE];
    [[unroll]] for (uint m = 0; m < MINE; ++m) own_sum[m] = 0.0;
    uint part = lane / TILE;
    uint my_key = lane % TILE;
    uint subgroups = TILE / gl_SubgroupSize;
    uint my_subgroup = my_key / gl_SubgroupSize;

    for (uint at = from; at < end; at += TILE) {
        bool more = at + TILE < end;
        bool has_fresh = makes && !more;
        vec2 factors = scale;
        if (has_fresh) {
            [[unroll]] for (uint u = 0; u < KEYS; ++u) {
                if (at + lane / SHARE + u * (WG / SHARE) != position) continue;
                [[unroll]] for (uint c = 0; c < LOADS; ++c) {
                    keys[u * LOADS + c] = own_piece[sharer + c * SHARE];
                }
            }
            [[unroll]] for (uint i = 0; i < VALUES; ++i) {
                if (at + subset + i * SUBSETS == position) values[i] = own_piece[PIECES + piece];
            }
            if (SCALED && at + my_key == position) factors = vec2(own_scale[0], own_scale[1]);
        }
        if (more) {
            FIND(at + TILE)
        }
        float score[HEADS * KEYS];
        [[unroll]] for (uint i = 0; i < HEADS * KEYS; ++i) score[i] = 0.0;
        [[unroll]] for (uint c = 0; c < LOADS; ++c) {
            [[unroll]] for (uint i = 0; i < QUADS; ++i) {
                vec4 key[KEYS];
                [[unroll]] for (uint u = 0; u < KEYS; ++u) key[u] = quad(keys[u * LOADS + c], i);
                [[unroll]] for (uint h = 0; h < HEADS; ++h) {
                    vec4 of = query[h * HEAD_QUADS + (sharer + c * SHARE) * QUADS + i];
                    [[unroll]] for (uint u = 0; u < KEYS; ++u) score[h * KEYS + u] += dot(of, key[u]);
                }
            }
        }
        if (more) {
            LOAD_KEYS
        }
        [[unroll]] for (uint h = 0; h < HEADS; ++h) {
            [[unroll]] for (uint u = 0; u < KEYS; ++u) {
                scratch[h * TILE * SHARE + u * WG + lane] = score[h * KEYS + u];
            }
        }
        barrier();
        float mine[MINE];
        bool visible = at + my_key < end;
        [[unroll]] for (uint m = 0; m < MINE; ++m) {
            // Where there is no such head, the last one again.
            uint h = min(part + m * PARTS, HEADS - 1);
            float s = 0.0;
            [[unroll]] for (uint i = 0; i < SHARE; ++i) {
                s += scratch[h * TILE * SHARE + my_key * SHARE + i];
            }
            if (SCALED) s *= factors.x;
            if (p.softcap > 0.0) s = p.softcap * exact_tanh(s / p.softcap);
            mine[m] = visible ? s : NOTHING;
            float most = subgroupMax(mine[m]);
            if (subgroupElect()) highest[h * (TILE / 4) + my_subgroup] = most;
        }
        barrier();
        float keep[HEADS];
        [[unroll]] for (uint h = 0; h < HEADS; ++h) {
            float now = top[h];
            for (uint i = 0; i < subgroups; ++i) now = max(now, highest[h * (TILE / 4) + i]);
            keep[h] = exp(top[h] - now);
            top[h] = now;
        }
        [[unroll]] for (uint h = 0; h < HEADS; ++h) {
            const uint m = h / PARTS;
            if (part != h % PARTS) continue;
            float e = visible ? exp(mine[m] - top[h]) : 0.0;
            own_sum[m] = own_sum[m] * keep[h] + e;
            weight[h * TILE + my_key] = e * factors.y;
        }
        barrier();
        [[unroll]] for (uint h = 0; h < HEADS; ++h) {
            [[unroll]] for (uint i = 0; i < QUADS; ++i) own[h * QUADS + i] *= keep[h];
        }
        uint there = min(TILE, end - at);
        [[unroll]] for (uint i = 0; i < VALUES; ++i) {
            uint j = subset + i * SUBSETS;
            // What is not there may be no number, which zero times does not take away.
            if (adds && j < there) {
                vec4 v4[QUADS];
                [[unroll]] for (uint c = 0; c < QUADS; ++c) v4[c] = quad(values[i], c);
                [[unroll]] for (uint h = 0; h < HEADS; ++h) {
                    float e = weight[h * TILE + j];
                    [[unroll]] for (uint c = 0; c < QUADS; ++c) own[h * QUADS + c] += e * v4[c];
                }
            }
        }
        if (more) {
            LOAD_VALUES
        }
    }

    [[unroll]] for (uint m = 0; m < MINE; ++m) {
        float s = subgroupAdd(own_sum[m]);
        uint h = part + m * PARTS;
        if (h < HEADS && subgroupElect()) totals[h * (TILE / 4) + my_subgroup] = s;
    }
    barrier();
    uint slot = p.parts_at + (first_head * p.splits + cut) * PART;
    [[unroll]] for (uint h = 0; h < HEADS; ++h) {
        if (lane != h) continue;
        float s = 0.0;
        for (uint i = 0; i < subgroups; ++i) s += totals[h * (TILE / 4) + i];
        if (n > 1) {
            parts[slot + h * p.splits * PART + HEAD_QUADS] = vec4(top[h], s, 0.0, 0.0);
        } else {
            float sink = sink_of(first_head + h);
            float most = max(top[h], sink);
            keeps[h] = exp(top[h] - most);
            sums[h] = s * keeps[h] + (p.has_sinks != 0 ? exp(sink - most) : 0.0);
        }
    }
    [[unroll]] for (uint done = 0; done < HEADS; done += ROUND) {
        [[unroll]] for (uint r = 0; r < ROUND; ++r) {
            if (done + r >= HEADS || !adds) continue;
            [[unroll]] for (uint c = 0; c < QUADS; ++c) {
                uint to = ((r * SUBSETS + subset) * PIECES + piece) * EACH + 4 * c;
                [[unroll]] for (uint e = 0; e < 4; ++e) scratch[to + e] = own[(done + r) * QUADS + c][e];
            }
        }
        barrier();
        for (uint i = lane; i < ROUND * HEAD_QUADS; i += WG) {
            uint r = i / HEAD_QUADS;
            uint d = i % HEAD_QUADS;
            uint h = done + r;
            if (h >= HEADS) break;
            vec4 sum = vec4(0.0);
            [[unroll]] for (uint s = 0; s < SUBSETS; ++s) {
                uint at = (r * SUBSETS + s) * DIM + 4 * d;
                sum += vec4(scratch[at], scratch[at + 1], scratch[at + 2], scratch[at + 3]);
            }
            if (n > 1) {
                parts[slot + h * p.splits * PART + d] = sum;
            } else {
                sum *= keeps[h];
                [[unroll]] for (uint e = 0; e < 4; ++e) {
                    o[p.o_at + (first_head + h) * DIM + 4 * d + e] = sum[e] / sums[h];
                }
            }
        }
        barrier();
    }
    if (n == 1) return;

    memoryBarrierBuffer();
    barrier();
    if (lane == 0) {
        last = atomicAdd(arrived[gl_WorkGroupID.x], 1u) + 1 == n;
        if (last) atomicExchange(arrived[gl_WorkGroupID.x], 0u);
    }
    barrier();
    if (!last) return;
    memoryBarrierBuffer();
    join(lane, first_head, n);
}
