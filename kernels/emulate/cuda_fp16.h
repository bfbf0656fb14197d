// cuda_fp16.h: as much of CUDA C++ as the kernels use, for a CPU compiler (step.cpp says how it runs).
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <vector>
#define EMULATED 1
#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __restrict__
using std::max;
using std::min;
struct uint4 {
    uint32_t x, y, z, w;
};
struct uint2 {
    uint32_t x, y;
};
struct float2 {
    float x, y;
};
inline uint4 make_uint4(uint32_t a, uint32_t b, uint32_t c, uint32_t d) { return {a, b, c, d}; }
inline float2 make_float2(float a, float b) { return {a, b}; }
struct D3 {
    unsigned x, y, z;
};
extern D3 threadIdx, blockIdx, gridDim, blockDim;
struct __half {
    _Float16 v;
};
struct __half2 {
    __half a, b;
};
inline float __half2float(__half h) { return (float)h.v; }
inline __half __float2half_rn(float f) { return {(_Float16)f}; }
inline __half __ushort_as_half(unsigned short u) {
    __half h;
    memcpy(&h, &u, 2);
    return h;
}
inline unsigned short __half_as_ushort(__half h) {
    unsigned short u;
    memcpy(&u, &h, 2);
    return u;
}
inline __half2 __floats2half2_rn(float a, float b) { return {__float2half_rn(a), __float2half_rn(b)}; }
inline float __uint_as_float(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
inline uint32_t __float_as_uint(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
inline float __int_as_float(int u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __expf(float a) { return expf(a); }
inline float rsqrtf(float a) { return 1.f / sqrtf(a); }
template <class T> T __ldg(const T *p) { return *p; }
template <class T> T __ldcg(const T *p) { return *p; }
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t s) {
    uint64_t v = (uint64_t)b << 32 | a;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++)
        r |= (uint32_t)((v >> 8 * ((s >> 4 * i) & 7)) & 255) << 8 * i;
    return r;
}
// fibers
void yield();
struct Slot {
    uint32_t u[6];
    float f[4];
};
Slot &collective(int op, const Slot &in); // result of this lane
inline float fbits(uint32_t u) { return __uint_as_float(u); }
enum { OP_XOR = 1, OP_DOWN, OP_IDX, OP_ANY, OP_SYNC, OP_MMA };
template <class T> T shfl(int op, T v, int arg, int width) {
    Slot s{};
    memcpy(&s.u[0], &v, 4);
    s.u[1] = arg;
    s.u[2] = width;
    Slot &r = collective(op, s);
    T o;
    memcpy(&o, &r.u[5], 4);
    return o;
}
template <class T> T __shfl_xor_sync(uint32_t, T v, int o) { return shfl(OP_XOR, v, o, 32); }
template <class T> T __shfl_down_sync(uint32_t, T v, int o) { return shfl(OP_DOWN, v, o, 32); }
template <class T> T __shfl_sync(uint32_t, T v, int o, int w = 32) { return shfl(OP_IDX, v, o, w); }
inline bool __any_sync(uint32_t, bool v) {
    Slot s{};
    s.u[0] = v;
    return collective(OP_ANY, s).u[5];
}
inline void __syncwarp() {
    Slot s{};
    collective(OP_SYNC, s);
}
void named_sync(int which, int threads);
inline void __syncthreads() { named_sync(0, blockDim.x); }
[[noreturn]] inline void __trap() {
    printf("TRAP block %u thread %u\n", blockIdx.x, threadIdx.x);
    abort();
}
