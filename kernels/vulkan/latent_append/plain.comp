// op: latent_append. Stores each row's latent vector, c followed by k, at its
// position.
// c f32 [T, L], k f32 [T, 1, R], rows strided; cache in pages, f32, f16 or bf16,
// rounded to nearest even. Row t of span s at position q goes to token q mod block
// of page table[s][q / block].
// Launch: x over the elements of a vector, y over rows. Exact.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_shader_16bit_storage : require
#include "../common/base.glsl"
#include "../common/stored.glsl"
#include "../common/round.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer C { float c[]; };
layout(set = 0, binding = 1, scalar) readonly buffer K { float k[]; };
layout(set = 0, binding = 2, scalar) writeonly buffer Cache16 { uint16_t cache16[]; };
layout(set = 0, binding = 2, scalar) writeonly buffer Cache32 { float cache32[]; };
STEP_BUFFER(3)

layout(push_constant, scalar) uniform Push {
    uint rows;
    uint len, latent;
    uint c_at, c_stride;
    uint k_at, k_stride;
    uint cache_at, page_stride, token_stride;
    uint block, pages;
    uint positions, row_span;
    uint table, blocks;
} p;

#include "../common/store.glsl"

void main() {
    uint i = gl_GlobalInvocationID.x;
    uint t = gl_WorkGroupID.y;
    if (i >= p.len || t >= REAL_ROWS(p.rows)) return;
    uint position = meta[p.positions + t];
    uint entry = p.table + meta[p.row_span + t] * p.blocks;
    uint page = meta[entry + position / p.block];
    // A row without a page is the runtime's mistake; it must not be written over
    // another sequence.
    if (page >= p.pages) return;
    uint at = p.cache_at + page * p.page_stride + (position % p.block) * p.token_stride + i;
    float v = i < p.latent ? c[p.c_at + t * p.c_stride + i] : k[p.k_at + t * p.k_stride + i - p.latent];
    store(at, v);
}
