// ptx.cuh: the instructions of kernels/ptx.cuh for step.cpp.
#pragma once
#include "blocks.cuh"
extern u8 *shared_base; // of the CTA that runs
void check_shared(u32 a, int bytes);
inline u32 half_op(u32 a, u32 b, u32 c, int op) {
    u32 r = 0;
    for (int i = 0; i < 2; i++) {
        double x = __half2float(__ushort_as_half((u16)(a >> 16 * i))), y = __half2float(__ushort_as_half((u16)(b >> 16 * i))),
               z = __half2float(__ushort_as_half((u16)(c >> 16 * i)));
        _Float16 h = (_Float16)(op == 0 ? x * y : op == 1 ? x + y : x * y + z);
        u16 bits;
        memcpy(&bits, &h, 2);
        r |= (u32)bits << 16 * i;
    }
    return r;
}
inline u32 hmul2(u32 a, u32 b) { return half_op(a, b, 0, 0); }
inline u32 hadd2(u32 a, u32 b) { return half_op(a, b, 0, 1); }
inline u32 hfma2(u32 a, u32 b, u32 c) { return half_op(a, b, c, 2); }
inline void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    Slot s{{a0, a1, a2, a3, b0, b1}, {c[0], c[1], c[2], c[3]}};
    Slot &r = collective(OP_MMA, s);
    for (int i = 0; i < 4; i++)
        c[i] = r.f[i];
}
inline u32 shared_at(const void *p) { return (u32)((const u8 *)p - shared_base); }
inline uint4 lds4(u32 a) {
    check_shared(a, 16);
    uint4 v;
    memcpy(&v, shared_base + a, 16);
    return v;
}
inline uint2 lds2(u32 a) {
    check_shared(a, 8);
    uint2 v;
    memcpy(&v, shared_base + a, 8);
    return v;
}
inline u32 lds1(u32 a) {
    check_shared(a, 4);
    u32 v;
    memcpy(&v, shared_base + a, 4);
    return v;
}
inline u32 lds_half(u32 a) {
    check_shared(a, 2);
    u16 v;
    memcpy(&v, shared_base + a, 2);
    return v;
}
void bar_init(u32 b, int n);
inline void bar_init_done() {}
bool bar_try(u32 b, u32 phase);
void bar_arrive(u32 b);
void bulk_copy(u32 to, u32 bar, const u8 *from, u32 bytes);
template <int THREADS> inline void bar_sync() { named_sync(1, THREADS); }
inline bool elect() { return (threadIdx.x & 31) == 0; }
inline uint4 poll4(const uint4 *p) { return *p; }
inline u32 poll1(const float *p) {
    yield();
    u32 v;
    memcpy(&v, p, 4);
    return v;
}
inline void add_release(u32 *p) { ++*p; }
inline u32 load_acquire(u32 *p) {
    yield();
    return *p;
}
inline void prefetch_l2(const void *, u32) {}
template <int N> inline void fewer_registers() {}
template <int N> inline void more_registers() {}
