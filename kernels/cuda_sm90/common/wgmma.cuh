// Tensor cores and bulk copies of compute capability 9.0a.
#pragma once
#include "../../cuda_sm86/common/mma.cuh"

// What the driver's cuTensorMapEncodeTiled fills.
struct __align__(64) TensorMap {
    u64 opaque[16];
};

DEVICE u32 cluster_rank() {
    u32 r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}
// All threads of the cluster; what was written to shared memory before is seen behind.
DEVICE void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

// Barriers in shared memory.
DEVICE void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// The other block and the copy engine see initialised barriers.
DEVICE void barriers_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
DEVICE void barrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n.reg .pred done;\nAGAIN:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra OVER;\nbra AGAIN;\nOVER:\n}" ::"r"(barrier), "r"(parity) : "memory");
}
// The same barrier of block `rank` of the cluster. Releases within the block only, which
// is enough for who has read: for more, the compiler waits for all of memory.
DEVICE void barrier_arrive_at(u32 barrier, u32 rank) {
    asm volatile(
        "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier), "r"(rank) : "memory");
}

DEVICE void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Threads of a block that meet, by number; `count` of them, in whole warps.
DEVICE void meet(u32 barrier, u32 count) { asm volatile("barrier.sync %0, %1;" ::"r"(barrier), "r"(count) : "memory"); }
// The same for those that do not wait.
DEVICE void meet_later(u32 barrier, u32 count) {
    asm volatile("barrier.arrive %0, %1;" ::"r"(barrier), "r"(count) : "memory");
}

// What earlier kernels, or this thread in shared memory, wrote, for the copy engine and
// for products to read.
DEVICE void fence_for_copies() { asm volatile("fence.proxy.async;" ::: "memory"); }
// A box of a matrix to shared memory; its bytes count at the barrier.
DEVICE void copy_box(u32 to, const TensorMap* map, u32 column, u32 row, u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
        "l"(map), "r"(column), "r"(row), "r"(barrier)
        : "memory");
}
// The same, to this place of both blocks of a cluster.
DEVICE void copy_box_to_both(u32 to, const TensorMap* map, u32 column, u32 row, u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
        "l"(map), "r"(column), "r"(row), "r"(barrier), "h"((u16)3)
        : "memory");
}

// A box of cells of a paged cache: from an element of a head on, from a token of a page.
DEVICE void copy_cells(u32 to, const TensorMap* map, u32 element, u32 token, u32 head, u32 kv, u32 page, u32 barrier) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5, %6}], [%7];" ::"r"(to),
        "l"(map), "r"(element), "r"(token), "r"(head), "r"(kv), "r"(page), "r"(barrier)
        : "memory");
}

template <int REGISTERS>
DEVICE void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
DEVICE void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT>
DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}
// Numbers of 16 bits whose rows of 64 lie in 128 bytes, 16-byte piece c of row r at
// c ^ (r mod 8), 8 rows one behind the other; groups of 8 rows follow each other.
DEVICE u64 rows_of_128(u32 at) { return (u64)1 << 62 | (u64)(1024 >> 4) << 32 | (u64)1 << 16 | (at & 0x3ffff) >> 4; }

// Columns of 16-bit numbers as the second operand of a product over rows: rows of 64
// lie in 128 bytes as above, 8 rows one behind the other; the next 64 columns lie `next`
// bytes on.
DEVICE u64 columns_of_128(u32 at, u32 next) {
    return (u64)1 << 62 | (u64)(1024 >> 4) << 32 | (u64)(next >> 4) << 16 | (at & 0x3ffff) >> 4;
}

// Lists of registers in the text of an instruction, and the operands that they are.
#define WG_0 \
    "%0, %1, %2, %3, %4, %5, %6, %7, " \
    "%8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31"
#define WG_32 \
    "%32, %33, %34, %35, %36, %37, %38, %39, " \
    "%40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, " \
    "%56, %57, %58, %59, %60, %61, %62, %63"
#define WG_64 \
    "%64, %65, %66, %67, %68, %69, %70, %71, " \
    "%72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, " \
    "%88, %89, %90, %91, %92, %93, %94, %95"
#define WG_96 \
    "%96, %97, %98, %99, %100, %101, %102, %103, " \
    "%104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, " \
    "%120, %121, %122, %123, %124, %125, %126, %127"
#define WG_FLOATS(d, i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define WG_FLOATS_32(d, i) WG_FLOATS(d, i), WG_FLOATS(d, i + 8), WG_FLOATS(d, i + 16), WG_FLOATS(d, i + 24)

// d = a·bᵀ (+ d), 64×16 by N×16, both in shared memory. Lane 4g + t of warp w of the
// four holds d[4j + 2h + e]: row 16w + g + 8h, column 8j + 2t + e. A, B and P are the
// numbers of the operands behind d.
#define WGMMA_SHARED(N, COUNT, TYPE, TAG, LIST, A, B, P, ...)                                                   \
    DEVICE void wgmma(float (&d)[COUNT], u64 a, u64 b, u32 add, TAG) {                                          \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " P ", 0;\n"                                            \
                     "wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE " {" LIST "}, " A ", " B    \
                     ", p, 1, 1, 0, 0;\n}"                                                                      \
                     : __VA_ARGS__                                                                              \
                     : "l"(a), "l"(b), "r"(add));                                                               \
    }
// d = a·b (+ d), 64×16 by 16×N: a in registers as `mma` takes it, 16 rows a warp; b in
// columns (1), or as above (0).
#define WGMMA_REGISTERS(N, COUNT, LIST, A, B, P, TRANS, ...)                                                    \
    template <int COLUMNS>                                                                                      \
    DEVICE void wgmma(float (&d)[COUNT], u32 a0, u32 a1, u32 a2, u32 a3, u64 b, u32 add) {                      \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " P ", 0;\n"                                            \
                     "wgmma.mma_async.sync.aligned.m64n" N "k16.f32.f16.f16 {" LIST "}, {" A "}, " B            \
                     ", p, 1, 1, " TRANS ";\n}"                                                                 \
                     : __VA_ARGS__                                                                              \
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(add), "n"(COLUMNS));                     \
    }
#define WG_64_COLUMNS(d) WG_FLOATS_32(d, 0)
#define WG_128_COLUMNS(d) WG_FLOATS_32(d, 0), WG_FLOATS_32(d, 32)
#define WG_256_COLUMNS(d) WG_FLOATS_32(d, 0), WG_FLOATS_32(d, 32), WG_FLOATS_32(d, 64), WG_FLOATS_32(d, 96)
#define WG_TO_64 WG_0 ", " WG_32
#define WG_TO_128 WG_0 ", " WG_32 ", " WG_64 ", " WG_96

WGMMA_SHARED("64", 32, "f16", f16_t, WG_0, "%32", "%33", "%34", WG_64_COLUMNS(d))
WGMMA_SHARED("128", 64, "f16", f16_t, WG_TO_64, "%64", "%65", "%66", WG_128_COLUMNS(d))
WGMMA_SHARED("256", 128, "bf16", bf16_t, WG_TO_128, "%128", "%129", "%130", WG_256_COLUMNS(d))
WGMMA_REGISTERS("64", 32, WG_0, "%32, %33, %34, %35", "%36", "%37", "%38", WG_64_COLUMNS(d))
WGMMA_REGISTERS("128", 64, WG_TO_64, "%64, %65, %66, %67", "%68", "%69", "%70", WG_128_COLUMNS(d))
WGMMA_REGISTERS("256", 128, WG_TO_128, "%128, %129, %130, %131", "%132", "%133", "%134", WG_256_COLUMNS(d))
