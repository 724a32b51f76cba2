// op: rope_table. table[t, i] = cos(a)·f, table[t, half + i] = sin(a)·f with
// a = positions[t]·inv_freq[i] in f32 and f = attention_factor.
// inv_freq f32 [half], table f32 [T, 2·half], rows strided.
// Launch: x over half, y over rows. Tolerance 2e-6: sincosf reduces the angle
// exactly and is off by 2 units in the last place.
#include "../common/base.cuh"

struct Args {
    const float* inv_freq;
    float* table;
    const u32* count;
    const u32* positions;
    u32 half_dim, stride;
    float factor;
};

KERNEL rope_table(const Args p) {
    start_next();
    wait_for_previous();
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    u32 t = blockIdx.y;
    if (i >= p.half_dim || t >= real_rows(p.count)) return;
    float s, c;
    sincosf((float)p.positions[t] * p.inv_freq[i], &s, &c);
    float* row = p.table + (u64)t * p.stride;
    row[i] = c * p.factor;
    row[p.half_dim + i] = s * p.factor;
}
