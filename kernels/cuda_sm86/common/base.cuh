// What every kernel of the tree shares. Compiled by NVRTC without any header.
#pragma once

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef unsigned long long u64;

#define KERNEL extern "C" __global__ void
#define DEVICE static __device__ __forceinline__

// Kernels that may start before the one ahead has ended: `wait_for_previous` stands
// before the first touch of anything that a kernel writes, in every thread;
// `start_next` lets the kernel behind start in turn, once all blocks of this one have
// a place. It may well stand first: a kernel ends behind its wait, so whoever waits for
// it has waited for all. Both are instructions of compute capability 9.0; the loader
// writes them in for devices that have them.
DEVICE void wait_for_previous() { asm volatile("// pdl_wait" ::: "memory"); }
DEVICE void start_next() { asm volatile("// pdl_launch" ::: "memory"); }

// Rows of an operand: what the step buffer says, or one. The host alone writes that
// buffer, before a step's first kernel starts, so its words may be read ahead of the wait.
DEVICE u32 real_rows(const u32* count) { return count ? *count : 1u; }

// Most matrices that share their x in a kernel; those that are not there have no columns.
enum { MATRICES = 4 };

// The matrix of a unit of `width` columns, which becomes that of the matrix.
DEVICE u32 matrix_of(const u32 (&n)[MATRICES], u32& unit, u32 width) {
    u32 m = 0;
    while (m < MATRICES - 1 && unit >= (n[m] + width - 1) / width) {
        unit -= (n[m] + width - 1) / width;
        ++m;
    }
    return m;
}

// Units of all matrices.
DEVICE u32 units_of(const u32 (&n)[MATRICES], u32 width) {
    u32 all = 0;
#pragma unroll
    for (u32 m = 0; m < MATRICES; ++m) all += (n[m] + width - 1) / width;
    return all;
}

DEVICE float from_f16(u16 h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}
DEVICE float from_bf16(u16 h) { return __uint_as_float((u32)h << 16); }

// To nearest, ties to even.
DEVICE u16 to_f16(float x) {
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}
DEVICE u16 to_bf16(float x) {
    u16 h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}
DEVICE u32 to_f16x2(float lo, float hi) {
    u32 h;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(h) : "f"(hi), "f"(lo));
    return h;
}
// What f16 left out of two numbers that are h there.
DEVICE u32 rest_f16x2(float lo, float hi, u32 h) { return to_f16x2(lo - from_f16((u16)h), hi - from_f16((u16)(h >> 16))); }
DEVICE u32 to_bf16x2(float lo, float hi) {
    u32 h;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(h) : "f"(hi), "f"(lo));
    return h;
}

// How plain numbers are stored.
struct f32_t {
    typedef float word;
    enum { PIECE = 4 };
    DEVICE float get(float w) { return w; }
    DEVICE float put(float x) { return x; }
    // The numbers in 16 bytes.
    DEVICE void piece(uint4 v, float* out) {
        out[0] = __uint_as_float(v.x);
        out[1] = __uint_as_float(v.y);
        out[2] = __uint_as_float(v.z);
        out[3] = __uint_as_float(v.w);
    }
};
struct f16_t {
    typedef u16 word;
    enum { PIECE = 8 };
    DEVICE float get(u16 w) { return from_f16(w); }
    DEVICE u16 put(float x) { return to_f16(x); }
    DEVICE u32 pair(float lo, float hi) { return to_f16x2(lo, hi); }
    DEVICE void both(u32 v, float* out) {
        out[0] = from_f16((u16)v);
        out[1] = from_f16((u16)(v >> 16));
    }
    DEVICE void piece(uint4 v, float* out) {
        both(v.x, out);
        both(v.y, out + 2);
        both(v.z, out + 4);
        both(v.w, out + 6);
    }
};
struct bf16_t {
    typedef u16 word;
    enum { PIECE = 8 };
    DEVICE float get(u16 w) { return from_bf16(w); }
    DEVICE u16 put(float x) { return to_bf16(x); }
    DEVICE u32 pair(float lo, float hi) { return to_bf16x2(lo, hi); }
    DEVICE void both(u32 v, float* out) {
        out[0] = __uint_as_float(v << 16);
        out[1] = __uint_as_float(v & 0xffff0000u);
    }
    DEVICE void piece(uint4 v, float* out) {
        both(v.x, out);
        both(v.y, out + 2);
        both(v.z, out + 4);
        both(v.w, out + 6);
    }
};

// Weights are read once: they need not stay in L1.
DEVICE uint4 load_stream(const void* at) {
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(at));
    return v;
}
DEVICE uint2 load_stream2(const void* at) {
    uint2 v;
    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(at));
    return v;
}

// Into the second level of the cache.
DEVICE void prefetch(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

DEVICE float silu(float x) {
    // exp of the negated magnitude cannot overflow.
    float e = expf(-fabsf(x));
    return x * ((x >= 0.0f ? 1.0f : e) / (1.0f + e));
}
DEVICE float sigmoid(float x) {
    float e = expf(-fabsf(x));
    return (x >= 0.0f ? 1.0f : e) / (1.0f + e);
}
DEVICE float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }
