// One head's attention over the visible positions of a row, WG at a time: a lane
// scores one position, then the softmax is carried online and lanes own output
// elements lane, lane + WG, …
//
// The shader declares `cache`, the step buffer and p with block, page_stride,
// token_stride, kv_stride, scale, softcap (0 for none) and aligned (whether heads
// are whole words), and fills `query`.

layout(constant_id = 4) const uint DIM = 64;
// Elements of a value.
layout(constant_id = 5) const uint VALUE_DIM = 64;
const uint OWN = (VALUE_DIM + WG - 1) / WG;
// Elements of a key and values that one turn of a loop takes: llvmpipe ends a shader
// after so many turns in all that single steps would not see long contexts through.
// What a turn takes is counted from 0: from elsewhere it is not unrolled there.
const uint KEY_STEP = DIM % 8 == 0 ? 8 : 1;
const uint PAIR_STEP = DIM % 8 == 0 ? 8 : 2;
const uint VALUE_STEP = 4;

shared float query[DIM];
shared float weight[WG];
shared uint value_at[WG];

#define CACHED(e) (SCALED ? code(cache[(e) >> 2], (e) & 3u) : STORED(cache, e))

// Positions first to position of the span whose block table begins at word
// `table`; `keys` is where the head lies in a page, `scales` where its scales do, in
// f16 numbers. The softmax starts with a maximum of `top` and a sum of `sum`: a sink,
// or nothing. own = o.
void attend(
    uint keys, uint scales, uint table, uint first, uint position, float top, float sum, out float own[OWN]
) {
    uint lane = gl_LocalInvocationID.x;
    for (uint i = 0; i < OWN; ++i) own[i] = 0.0;
    workgroup_sync();
    for (uint at = first; at <= position; at += WG) {
        uint pos = at + lane;
        bool seen = pos <= position;
        float score = -3.0e38;
        float value_scale = 1.0;
        if (seen) {
            uint page = meta[table + pos / p.block];
            uint key = keys + page * p.page_stride + (pos % p.block) * p.token_stride;
            value_at[lane] = key + p.kv_stride;
            float s = 0.0;
            if (SCALED && p.aligned != 0) {
                for (uint d = 0; d < DIM; d += 4) {
                    vec4 q = vec4(query[d], query[d + 1], query[d + 2], query[d + 3]);
                    s += dot(codes(cache[(key + d) / 4]), q);
                }
            } else if (SCHEME != F32 && !SCALED && p.aligned != 0) {
                for (uint d = 0; d < DIM; d += PAIR_STEP) {
                    [[unroll]] for (uint i = 0; i < PAIR_STEP; i += 2) {
                        uint e = d + i;
                        s += dot(decode16x2(cache[(key + e) / 2]), vec2(query[e], query[e + 1]));
                    }
                }
            } else {
                for (uint d = 0; d < DIM; d += KEY_STEP) {
                    [[unroll]] for (uint i = 0; i < KEY_STEP; ++i) s += CACHED(key + d + i) * query[d + i];
                }
            }
            if (SCALED) {
                uint at = scales + page * p.page_stride / 2 + pos % p.block;
                s *= SCALE(cache, at);
                value_scale = SCALE(cache, at + p.kv_stride / 2);
            }
            score = s * p.scale;
            if (p.softcap > 0.0) score = p.softcap * exact_tanh(score / p.softcap);
        }
        float new_top = max(top, workgroup_max(score));
        float e = seen ? exp(score - new_top) : 0.0;
        float keep = exp(top - new_top);
        top = new_top;
        weight[lane] = e * value_scale;
        sum = sum * keep + workgroup_sum(e);
        workgroup_sync();
        uint n = min(WG, position + 1 - at);
        for (uint i = 0; i < OWN; ++i) {
            uint d = lane + i * WG;
            if (d < VALUE_DIM) {
                float a = own[i] * keep;
                for (uint j = 0; j < n; j += VALUE_STEP) {
                    [[unroll]] for (uint k = 0; k < VALUE_STEP; ++k) {
                        if (j + k < n) a += weight[j + k] * CACHED(value_at[j + k] + d);
                    }
                }
                own[i] = a;
            }
        }
        workgroup_sync();
    }
    for (uint i = 0; i < OWN; ++i) own[i] /= sum;
}
