// The second list for products of experts with many rows: the tiles of TILE rows into
// which each expert's part of the order falls.
// starts u32 [experts + 1]; tiles: their number, then expert, place in the order and
// rows of each.
// Launch: one workgroup; a lane takes the experts lane, lane + WG, …
#version 460
#extension GL_GOOGLE_include_directive : require
#include "base.glsl"

layout(set = 0, binding = 0, scalar) readonly buffer Starts { uint starts[]; };
layout(set = 0, binding = 1, scalar) writeonly buffer Tiles { uint tiles[]; };

layout(push_constant, scalar) uniform Push {
    uint experts;
    uint starts_at, tiles_at;
    uint tile;
} p;

shared uint counts[WG];

void main() {
    uint lane = gl_LocalInvocationID.x;
    uint done = 0;
    for (uint first = 0; first < p.experts; first += WG) {
        uint expert = first + lane;
        uint start = 0;
        uint rows = 0;
        if (expert < p.experts) {
            start = starts[p.starts_at + expert];
            rows = starts[p.starts_at + expert + 1] - start;
        }
        uint own = (rows + p.tile - 1) / p.tile;
        counts[lane] = own;
        barrier();
        uint before = done;
        for (uint i = 0; i < WG; ++i) {
            if (i < lane) before += counts[i];
            done += counts[i];
        }
        for (uint i = 0; i < own; ++i) {
            uint to = p.tiles_at + 1 + 3 * (before + i);
            tiles[to] = expert;
            tiles[to + 1] = start + i * p.tile;
            tiles[to + 2] = min(rows - i * p.tile, p.tile);
        }
        barrier();
    }
    if (lane == 0) tiles[p.tiles_at] = done;
}
