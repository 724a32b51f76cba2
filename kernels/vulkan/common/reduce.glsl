// Sums, maxima and minima over a workgroup, in an order that the device and the
// workgroup's size fix. All lanes must call, all lanes get the result.

shared float reduce_parts[WG];

void workgroup_sync() {
    if (ONE_SUBGROUP) {
        subgroupMemoryBarrierShared();
        subgroupBarrier();
    } else {
        barrier();
    }
}

#define REDUCE(NAME, IN_SUBGROUP, JOIN)                                  \
    float NAME(float x) {                                                \
        x = IN_SUBGROUP(x);                                              \
        if (!ONE_SUBGROUP) {                                             \
            if (subgroupElect()) reduce_parts[gl_SubgroupID] = x;        \
            barrier();                                                   \
            x = reduce_parts[0];                                         \
            for (uint i = 1; i < gl_NumSubgroups; ++i) {                 \
                float y = reduce_parts[i];                               \
                x = JOIN;                                                \
            }                                                            \
            barrier();                                                   \
        }                                                                \
        return x;                                                        \
    }

REDUCE(workgroup_sum, subgroupAdd, x + y)
REDUCE(workgroup_max, subgroupMax, max(x, y))
