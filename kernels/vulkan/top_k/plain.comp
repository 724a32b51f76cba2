// op: top_k. The k ≤ 64 largest logits in descending order, ties to the lowest id, as ids
// and bits of f32; NaN is larger than any number, both zeros are +0, and places behind the
// last logit hold 0xffffffff and -inf.
// logits f32 [R, V], rows strided; top u32 [R, k, 2].
// Launch: a workgroup for each (part, row) leaves the k largest of its part, in
// registers, as keys; then the same of those, until one has a row's. Keys are pairs that
// compare as the order does: bits that grow with the logit, the complement of the id.
// The k-th largest is found bit by bit. Exact: all is done on bits.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "../common/base.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer X { uint x[]; };
layout(set = 0, binding = 1, scalar) buffer Keys { uvec2 keys[]; };
layout(set = 0, binding = 2, scalar) writeonly buffer Top { uint top[]; };
STEP_BUFFER(3)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint len;
    uint x_at, x_stride;
    uint top_at, top_stride;
    uint k;
    // Keys in the buffer: what the launch ahead has left, or NONE, and where to go on.
    uint from, to;
} p;

const uint PER = 16;
const uint MOST_K = 64;
const uint NONE = 0xffffffffu;

shared uint counts[WG];
shared uvec2 chosen[MOST_K];
shared uint taken;

// Grows with the logit; zero is none.
uint rank_of(uint bits) {
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0xffffffffu;
    if (bits == 0x80000000u) bits = 0;
    return (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
}
uint bits_of(uint rank) { return (rank >> 31) != 0 ? rank ^ 0x80000000u : ~rank; }

uint count_all(uint n) {
    n = subgroupAdd(n);
    if (subgroupElect()) counts[gl_SubgroupID] = n;
    barrier();
    n = 0;
    for (uint i = 0; i < gl_NumSubgroups; ++i) n += counts[i];
    barrier();
    return n;
}

void main() {
    const uint r = gl_WorkGroupID.y, part = gl_WorkGroupID.x, parts = gl_NumWorkGroups.x;
    if (r >= REAL_ROWS(p.rows)) return;
    const uint lane = gl_LocalInvocationID.x;
    if (lane == 0) taken = 0;
    uint rank[PER], id[PER];
    [[unroll]] for (uint j = 0; j < PER; ++j) {
        const uint i = part * (WG * PER) + j * WG + lane;
        uvec2 key = uvec2(0);
        if (i < p.len) {
            key = p.from == NONE ? uvec2(rank_of(x[p.x_at + r * p.x_stride + i]), ~i) : keys[p.from + r * p.len + i];
        }
        rank[j] = key.x;
        id[j] = key.y;
    }
    // The k-th largest rank, as far as it takes to have k, and how many reach it.
    uint least = 0, reach = NONE;
    for (uint bit = 0x80000000u; bit != 0 && reach != p.k; bit >>= 1) {
        const uint want = least | bit;
        uint n = 0;
        [[unroll]] for (uint j = 0; j < PER; ++j) n += uint(rank[j] >= want);
        n = count_all(n);
        if (n >= p.k) {
            least = want;
            reach = n;
        }
    }
    // Of equals those with the largest complements.
    uint last = 0;
    least = max(least, 1u);
    if (reach != NONE && reach != p.k) {
        uint above = 0;
        [[unroll]] for (uint j = 0; j < PER; ++j) above += uint(rank[j] > least);
        above = count_all(above);
        for (uint bit = 0x80000000u; bit != 0 && reach != p.k; bit >>= 1) {
            const uint want = last | bit;
            uint n = 0;
            [[unroll]] for (uint j = 0; j < PER; ++j) n += uint(rank[j] == least && id[j] >= want);
            n = above + count_all(n);
            if (n >= p.k) {
                last = want;
                reach = n;
            }
        }
    }
    barrier();
    [[unroll]] for (uint j = 0; j < PER; ++j) {
        if (rank[j] > least || (rank[j] == least && id[j] >= last)) {
            chosen[atomicAdd(taken, 1)] = uvec2(rank[j], id[j]);
        }
    }
    barrier();
    const uint n = taken;
    for (uint j = lane; j < p.k; j += WG) {
        const uvec2 own = j < n ? chosen[j] : uvec2(0);
        if (parts > 1) {
            keys[p.to + (r * parts + part) * p.k + j] = own;
            continue;
        }
        uint place = j;
        if (j < n) {
            place = 0;
            for (uint i = 0; i < n; ++i) {
                place += uint(chosen[i].x > own.x || (chosen[i].x == own.x && chosen[i].y > own.y));
            }
        }
        const uint at = p.top_at + r * p.top_stride + 2 * place;
        top[at] = j < n ? ~own.y : 0xffffffffu;
        top[at + 1] = j < n ? bits_of(own.x) : 0xff800000u;
    }
}
