// op: attention. o = softmax(scale·q·kᵀ)·v over the positions that a row sees:
// (p − window, p], or [0, p] without a window.
// q, o f32 [T, heads, D], rows strided; cache in pages, f32, f16 or bf16; head h
// reads kv head h / (heads / kv_heads).
// Launch: one workgroup for each (head, row). It walks the visible positions WG
// at a time: a lane scores one position, then the softmax is carried online and
// lanes own output elements lane, lane + WG, … Tolerance 5e-5: a shader's
// exp may be off by 3 + 2·|x| units in the last place.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"
#include "../common/reduce.glsl"
#include "../common/stored.glsl"

layout(constant_id = 4) const uint DIM = 64;
const uint OWN = (DIM + WG - 1) / WG;

layout(set = 0, binding = 0, scalar) readonly buffer Q { float q[]; };
layout(set = 0, binding = 1, scalar) readonly buffer Cache { uint cache[]; };
layout(set = 0, binding = 2, scalar) writeonly buffer O { float o[]; };
STEP_BUFFER(3)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint group;
    uint q_at, q_stride;
    uint cache_at, page_stride, kv_stride, head_stride, token_stride;
    uint o_at, o_stride;
    uint block;
    uint positions, row_span;
    uint table, blocks;
    // 0 for none.
    uint window;
    uint aligned;
    float scale;
} p;

shared float query[DIM];
shared float weight[WG];
shared uint value_at[WG];

void main() {
    uint head = gl_WorkGroupID.x;
    uint t = gl_WorkGroupID.y;
    if (t >= REAL_ROWS(p.rows)) return;
    uint lane = gl_LocalInvocationID.x;
    uint position = meta[p.positions + t];
    uint first = p.window != 0 && position + 1 > p.window ? position + 1 - p.window : 0;
    uint table = p.table + meta[p.row_span + t] * p.blocks;
    uint keys = p.cache_at + (head / p.group) * p.head_stride;

    for (uint d = lane; d < DIM; d += WG) {
        query[d] = q[p.q_at + t * p.q_stride + head * DIM + d];
    }
    float own[OWN];
    for (uint i = 0; i < OWN; ++i) own[i] = 0.0;
    float top = -3.0e38;
    float sum = 0.0;
    workgroup_sync();

    for (uint at = first; at <= position; at += WG) {
        uint pos = at + lane;
        bool seen = pos <= position;
        float score = -3.0e38;
        if (seen) {
            uint page = meta[table + pos / p.block];
            uint key = keys + page * p.page_stride + (pos % p.block) * p.token_stride;
            value_at[lane] = key + p.kv_stride;
            float s = 0.0;
            if (SCHEME != F32 && p.aligned != 0) {
                for (uint d = 0; d < DIM; d += 2) {
                    s += dot(decode16x2(cache[(key + d) / 2]), vec2(query[d], query[d + 1]));
                }
            } else {
                for (uint d = 0; d < DIM; ++d) s += STORED(cache, key + d) * query[d];
            }
            score = s * p.scale;
        }
        float new_top = max(top, workgroup_max(score));
        float e = seen ? exp(score - new_top) : 0.0;
        float keep = exp(top - new_top);
        top = new_top;
        weight[lane] = e;
        sum = sum * keep + workgroup_sum(e);
        workgroup_sync();
        uint n = min(WG, position + 1 - at);
        for (uint i = 0; i < OWN; ++i) {
            uint d = lane + i * WG;
            if (d < DIM) {
                float a = own[i] * keep;
                for (uint j = 0; j < n; ++j) a += weight[j] * STORED(cache, value_at[j] + d);
                own[i] = a;
            }
        }
        workgroup_sync();
    }
    for (uint i = 0; i < OWN; ++i) {
        uint d = lane + i * WG;
        if (d < DIM) o[p.o_at + t * p.o_stride + head * DIM + d] = own[i] / sum;
    }
}
