// blocks.cuh: GGUF blocks as they lie in a file, to floats. Shared by every kernel that reads unpacked weights.
//
// Eight consecutive weights at a time: they always lie in one block, and in one sub-block with one scale. Multiplications
// and additions are separate (no fma), in ggml's order, so that the values are bit for bit those of the CPU's definition
// (src/engine/block/dequant.rs). The numbers of the types are GGUF's own.
#pragma once
#include <cuda_fp16.h>
typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif

enum Type { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14, BF16 = 30 };

// Weights and bytes of one block.
__host__ __device__ constexpr int block_weights(int type) {
    return type == F32 || type == F16 || type == BF16 ? 1 : type <= Q8_0 ? 32 : 256;
}
__host__ __device__ constexpr int block_bytes(int type) {
    return type == F32 ? 4 : type == F16 || type == BF16 ? 2 : type == Q4_0 ? 18 : type == Q4_1 ? 20 : type == Q5_0 ? 22
         : type == Q5_1 ? 24 : type == Q8_0 ? 34 : type == Q2_K ? 84 : type == Q3_K ? 110 : type == Q4_K ? 144 : type == Q5_K ? 176 : 210;
}

__device__ __forceinline__ float half_at(const u8* p) { return __half2float(__ushort_as_half((u16)(p[0] | p[1] << 8))); }
__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }

// 6-bit scale and minimum of sub-block j of Q4_K and Q5_K: six bits each of eight scales and eight minima in 12 bytes.
__device__ __forceinline__ void scale_min_k4(const u8* s, int j, int& scale, int& min) {
    if (j < 4) {
        scale = s[j] & 63;
        min = s[j + 4] & 63;
    } else {
        scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        min = (s[j + 4] >> 4) | (s[j] >> 6) << 4;
    }
}
// 6-bit scale of sub-block j (of 16 weights) of Q3_K, -32..31.
__device__ __forceinline__ int scale_k3(const u8* s, int j) {
    int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4, high = (s[8 + (j & 3)] >> 2 * (j >> 2)) & 3;
    return (low | high << 4) - 32;
}

// Weights k..k+7 of a row of `type` (k a multiple of 8, all eight inside the row).
template <int T> __device__ __forceinline__ void dequant8(const u8* row, int k, float (&w)[8]) {
    constexpr int W = block_weights(T), B = block_bytes(T);
    const u8* b = row + (size_t)(k / W) * B;
    const int i = k % W;
    if (T == F32) {
#pragma unroll
        for (int e = 0; e < 8; e++) w[e] = *(const float*)(b + 4 * e);
    } else if (T == F16) {
#pragma unroll
        for (int e = 0; e < 8; e++) w[e] = __half2float(*(const __half*)(b + 2 * e));
    } else if (T == BF16) {
#pragma unroll
        for (int e = 0; e < 8; e++) w[e] = __uint_as_float((u32)*(const u16*)(b + 2 * e) << 16);
    } else if (T == Q4_0 || T == Q4_1 || T == Q5_0 || T == Q5_1) {
        constexpr bool five = T == Q5_0 || T == Q5_1, least = T == Q4_1 || T == Q5_1;
        constexpr int at = (least ? 4 : 2) + (five ? 4 : 0);
        const float d = half_at(b), m = least ? half_at(b + 2) : 0.f;
        const u8 *q = b + at + (i & 15), *h = b + (least ? 4 : 2);
        const int high = five ? h[i >> 3] : 0; // the fifth bits of these eight weights
#pragma unroll
        for (int e = 0; e < 8; e++) {
            int v = i & 16 ? q[e] >> 4 : q[e] & 15;
            if (five) v |= ((high >> e) & 1) << 4;
            w[e] = least ? add(mul((float)v, d), m) : mul((float)(v - (five ? 16 : 8)), d);
        }
    } else if (T == Q8_0) {
        const float d = half_at(b);
#pragma unroll
        for (int e = 0; e < 8; e++) w[e] = mul((float)(i8)b[2 + i + e], d);
    } else if (T == Q2_K) {
        const int s = b[i >> 4];
        const float dl = mul(half_at(b + 80), (float)(s & 15)), ml = mul(half_at(b + 82), (float)(s >> 4));
        const u8* q = b + 16 + 32 * (i >> 7) + (i & 31);
#pragma unroll
        for (int e = 0; e < 8; e++) w[e] = add(mul(dl, (float)((q[e] >> 2 * ((i >> 5) & 3)) & 3)), -ml);
    } else if (T == Q3_K) {
        const float dl = mul(half_at(b + 108), (float)scale_k3(b + 96, i >> 4));
        const u8 *q = b + 32 + 32 * (i >> 7) + (i & 31), *h = b + (i & 31);
#pragma unroll
        for (int e = 0; e < 8; e++) w[e] = mul(dl, (float)(((q[e] >> 2 * ((i >> 5) & 3)) & 3) - ((h[e] >> (i >> 5)) & 1 ? 0 : 4)));
    } else if (T == Q4_K || T == Q5_K) {
        int s, m;
        scale_min_k4(b + 4, i >> 5, s, m);
        const float dl = mul(half_at(b), (float)s), ml = mul(half_at(b + 2), (float)m);
        const u8 *q = b + (T == Q4_K ? 16 : 48) + 32 * (i >> 6) + (i & 31), *h = b + 16 + (i & 31);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            int v = i & 32 ? q[e] >> 4 : q[e] & 15;
            if (T == Q5_K) v |= ((h[e] >> (i >> 5)) & 1) << 4;
            w[e] = add(mul(dl, (float)v), -ml);
        }
    } else if (T == Q6_K) {
        const int quarter = (i >> 5) & 3, l = i & 31;
        const float dl = mul(half_at(b + 208), (float)(i8)b[192 + (i >> 4)]);
        const u8 *q = b + 64 * (i >> 7) + l + 32 * (quarter & 1), *h = b + 128 + 32 * (i >> 7) + l;
#pragma unroll
        for (int e = 0; e < 8; e++) w[e] = mul(dl, (float)(((quarter & 2 ? q[e] >> 4 : q[e] & 15) | ((h[e] >> 2 * quarter) & 3) << 4) - 32));
    }
}

// One weight of an unquantized row: rows of these types may have any length.
__device__ __forceinline__ float plain_weight(int type, const u8* row, int k) {
    return type == F32 ? ((const float*)row)[k] : type == F16 ? __half2float(((const __half*)row)[k]) : __uint_as_float((u32)((const u16*)row)[k] << 16);
}
__device__ __forceinline__ bool is_plain(int type) { return type == F32 || type == F16 || type == BF16; }

// Calls f.run<T>() for the run-time type.
template <class F> __device__ __forceinline__ void with_type(int type, F& f) {
    switch (type) {
        case F32: f.template run<F32>(); break;
        case F16: f.template run<F16>(); break;
        case BF16: f.template run<BF16>(); break;
        case Q4_0: f.template run<Q4_0>(); break;
        case Q4_1: f.template run<Q4_1>(); break;
        case Q5_0: f.template run<Q5_0>(); break;
        case Q5_1: f.template run<Q5_1>(); break;
        case Q8_0: f.template run<Q8_0>(); break;
        case Q2_K: f.template run<Q2_K>(); break;
        case Q3_K: f.template run<Q3_K>(); break;
        case Q4_K: f.template run<Q4_K>(); break;
        case Q5_K: f.template run<Q5_K>(); break;
        case Q6_K: f.template run<Q6_K>(); break;
    }
}
