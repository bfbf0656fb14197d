// tiles.cuh: GGUF K-quants and Q8_0 as tensor-core tiles: the layout in memory, and how a warp turns a tile into products.
//
// A TILE is 16 rows x 256 columns: the very bits of 16 GGUF super-blocks (8 blocks a row for Q8_0), permuted so that a warp reads it
// with 16-byte conflict-free loads and every weight lands where mma.sync.m16n8k16 wants it. Values and byte count are unchanged.
// A matrix is [row group of 16][super-block]. Rows past the matrix's own are zero.
//
//   lane = 4 g + t (g = 0..7, t = 0..3) owns rows R0 = g and R1 = g + 8, columns 64 t .. 64 t + 63 of the tile;
//   mma step m = 0..15 takes columns 64 t + 4 m .. + 3 of every t: any order of k is right as long as weights and activations agree,
//   and this one leaves each lane with its own sub-blocks, hence its own scales.
//
// Weight bits go into the f16 mantissa as subnormals (q x 2^-24); one multiplication by the integer sub-block scale makes q sc 2^-24,
// exact in f16 for Q2_K to Q5_K. Bits masked in place come out 4^p or 16 times too large: they add up in chains of their own, which
// `chain` weights at the end. d and dmin are applied in f32, once a super-block. Minima are products of their own, with sums of 16
// columns of the activations, each sum as two halves high + low. Q3_K's offset -4 is such a minimum.
//
// planes: byte offset in the tile, content (u4: 16 bytes a lane)
//   Q4_K 2304: 0 nibbles u4 x 4 (R0 words 0-3, R1 0-3, R0 4-7, R1 4-7); 2048 u32[32]; 2176 u16[32] (48 bits: scales R0B0 R0B1 R1B0
//              R1B1, minima in the same order, 6 bits each); 2240 (d, dmin)[g][R0, R1]
//   Q5_K 2816: as Q4_K with the fifth bits u4 (R0 H0 H1, R1 H0 H1) at 2048; the rest 512 later
//   Q6_K 3360: 0 low nibbles as Q4_K; 2048 high pairs u4 x 2 (R0; R1); 3072 u32[2][32] scales + 128 (a byte a sub-block 4t..4t+3);
//              3328 (d R0, d R1)[g]
//   Q2_K 1344: 0 u4 x 2 (R0; R1), word v = sub-block 4t+v; 1024 u32[2][32] scale | min << 4; 1280 (d, dmin)[g][R0, R1]
//   Q3_K 1760: 0 low pairs as Q2_K; 1024 high bits u4 (R0 H0 H1, R1 H0 H1); 1536 u32[32] low nibbles of the scales (R0 | R1 << 4);
//              1664 u16[32] their high pairs; 1728 (d R0, d R1)[g]
//   Q8_0 4352: 0 u4 x 8 bytes + 128 (R0 words 0-15, R1 0-15), word m = step m; 4096 half[4] a lane (R0B0 R0B1 R1B0 R1B1)
#pragma once
#include "ptx.cuh"

__device__ __forceinline__ float half_bits(u32 h) { return __half2float(__ushort_as_half((u16)h)); }
template <int S> __device__ __forceinline__ u32 shift(u32 v) { return S >= 0 ? v >> (S >= 0 ? S : 0) : v << (S < 0 ? -S : 0); }
// 0..1023 -> half2(x, x), through the mantissa of 1024.
__device__ __forceinline__ u32 splat(u32 x) { return hadd2(x * 0x10001u + 0x64006400u, 0xE400E400u); }
// Byte b of w, less what `minus` holds over 1024 -> half2.
__device__ __forceinline__ u32 splat_byte(u32 w, int b, u32 thousand, u32 minus) { return hadd2(__byte_perm(w, thousand, 0x4040u + 0x101u * b), minus); }
constexpr u32 MINUS_0 = 0xE400E400u, MINUS_32 = 0xE420E420u, MINUS_128 = 0xE480E480u;
constexpr u32 LOW = 0x000f000fu, HIGH = 0x00f000f0u; // the nibbles that become chains 0 and 1
constexpr float UNIT = 16777216.f;                   // 2^24: one over the subnormal unit


// What a tile offers: BYTES; CHAINS and chain(c), the weight of a chain; MINIMA; load(); touched(), a value that depends on every
// load; run(sink), which hands over the fragments: sink.mma<chain, step>(a0..a3) and sink.minimum<half>(a0..a3); scales(), the factors
// of rows R0 and R1. result row = d (sum of chain(c) c) - m (minima).
template <int T> struct Tile;

// Scales of Q4_K and Q5_K.
struct NibbleScales {
    u32 w, h, d0, d1;
    __device__ __forceinline__ void load(u32 a, int lane) {
        w = lds1(a + lane * 4);
        h = lds_half(a + 128 + lane * 2);
        const uint2 d = lds2(a + 192 + (lane >> 2) * 8);
        d0 = d.x;
        d1 = d.y;
    }
    template <class S> __device__ __forceinline__ void open(S& s, u32 (&c)[4]) const {
#pragma unroll
        for (int i = 0; i < 4; i++) c[i] = splat((w >> 6 * i) & 63); // R0B0 R0B1 R1B0 R1B1
        const u32 m0 = ((w >> 24) & 63) * 0x10001u, m1 = (h & 63) * 0x10001u, m2 = ((h >> 6) & 63) * 0x10001u, m3 = (w >> 30 | (h >> 12) << 2) * 0x10001u;
        s.template minimum<0>(m0, m2);
        s.template minimum<1>(m1, m3);
    }
};
__device__ __forceinline__ void scales_with_minima(u32 d0, u32 d1, float (&d)[2], float (&m)[2]) {
    d[0] = half_bits(d0) * UNIT;
    m[0] = half_bits(d0 >> 16) * UNIT;
    d[1] = half_bits(d1) * UNIT;
    m[1] = half_bits(d1 >> 16) * UNIT;
}

template <> struct Tile<Q4_K> {
    static constexpr int BYTES = 2304, CHAINS = 2, MINIMA = 1;
    static __device__ __forceinline__ constexpr float chain(int c) { return c ? 0.0625f : 1.f; }
    uint4 q[4];
    NibbleScales n;
    __device__ __forceinline__ void load(u32 a, int lane) {
#pragma unroll
        for (int j = 0; j < 4; j++) q[j] = lds4(a + j * 512 + lane * 16);
        n.load(a + 2048, lane);
    }
    __device__ __forceinline__ u32 touched() const { return q[0].x ^ q[1].x ^ q[2].x ^ q[3].x ^ n.w ^ n.h ^ n.d0; }
    template <class S> __device__ __forceinline__ void run(S& s) const {
        u32 c[4];
        n.open(s, c);
        half<0>(s, q[0], q[1], c[0], c[2]);
        half<8>(s, q[2], q[3], c[1], c[3]);
    }
    template <int M, class S> static __device__ __forceinline__ void half(S& s, uint4 a, uint4 b, u32 s0, u32 s1) {
        word<M>(s, a.x, b.x, s0, s1);
        word<M + 2>(s, a.y, b.y, s0, s1);
        word<M + 4>(s, a.z, b.z, s0, s1);
        word<M + 6>(s, a.w, b.w, s0, s1);
    }
    template <int M, class S> static __device__ __forceinline__ void word(S& s, u32 w0, u32 w1, u32 s0, u32 s1) {
        const u32 v0 = w0 >> 8, v1 = w1 >> 8;
        s.template mma<0, M>(hmul2(w0 & LOW, s0), hmul2(w1 & LOW, s1), hmul2(v0 & LOW, s0), hmul2(v1 & LOW, s1));
        s.template mma<1, M + 1>(hmul2(w0 & HIGH, s0), hmul2(w1 & HIGH, s1), hmul2(v0 & HIGH, s0), hmul2(v1 & HIGH, s1));
    }
    __device__ __forceinline__ void scales(float (&d)[2], float (&m)[2]) const { scales_with_minima(n.d0, n.d1, d, m); }
};

template <> struct Tile<Q5_K> {
    static constexpr int BYTES = 2816, CHAINS = 2, MINIMA = 1;
    static __device__ __forceinline__ constexpr float chain(int c) { return c ? 0.0625f : 1.f; }
    uint4 q[4], h;
    NibbleScales n;
    __device__ __forceinline__ void load(u32 a, int lane) {
#pragma unroll
        for (int j = 0; j < 4; j++) q[j] = lds4(a + j * 512 + lane * 16);
        h = lds4(a + 2048 + lane * 16);
        n.load(a + 2560, lane);
    }
    __device__ __forceinline__ u32 touched() const { return q[0].x ^ q[1].x ^ q[2].x ^ q[3].x ^ h.x ^ n.w ^ n.h ^ n.d0; }
    template <class S> __device__ __forceinline__ void run(S& s) const {
        u32 c[4];
        n.open(s, c);
        half<0>(s, q[0], q[1], h.x, h.z, c[0], c[2]);
        half<8>(s, q[2], q[3], h.y, h.w, c[1], c[3]);
    }
    template <int M, class S> static __device__ __forceinline__ void half(S& s, uint4 a, uint4 b, u32 h0, u32 h1, u32 s0, u32 s1) {
        word<M, -4, -3>(s, a.x, b.x, h0, h1, s0, s1);
        word<M + 2, -2, -1>(s, a.y, b.y, h0, h1, s0, s1);
        word<M + 4, 4, 5>(s, a.z, b.z, h0, h1, s0, s1);
        word<M + 6, 6, 7>(s, a.w, b.w, h0, h1, s0, s1);
    }
    template <int M, int A, int B, class S> static __device__ __forceinline__ void word(S& s, u32 w0, u32 w1, u32 h0, u32 h1, u32 s0, u32 s1) {
        constexpr u32 FIFTH = 0x00100010u, FIFTH_HIGH = 0x01000100u;
        const u32 v0 = w0 >> 8, v1 = w1 >> 8, x0 = shift<A>(h0), x1 = shift<A>(h1), y0 = shift<B>(h0), y1 = shift<B>(h1);
        s.template mma<0, M>(hmul2((w0 & LOW) | (x0 & FIFTH), s0), hmul2((w1 & LOW) | (x1 & FIFTH), s1),
                             hmul2((v0 & LOW) | (y0 & FIFTH), s0), hmul2((v1 & LOW) | (y1 & FIFTH), s1));
        s.template mma<1, M + 1>(hmul2((w0 & HIGH) | (x0 & FIFTH_HIGH), s0), hmul2((w1 & HIGH) | (x1 & FIFTH_HIGH), s1),
                                 hmul2((v0 & HIGH) | (y0 & FIFTH_HIGH), s0), hmul2((v1 & HIGH) | (y1 & FIFTH_HIGH), s1));
    }
    __device__ __forceinline__ void scales(float (&d)[2], float (&m)[2]) const { scales_with_minima(n.d0, n.d1, d, m); }
};

template <> struct Tile<Q6_K> {
    static constexpr int BYTES = 3360, CHAINS = 2, MINIMA = 0;
    static __device__ __forceinline__ constexpr float chain(int c) { return c ? 0.0625f : 1.f; }
    uint4 q[4], h[2];
    u32 c0, c1, d;
    __device__ __forceinline__ void load(u32 a, int lane) {
#pragma unroll
        for (int j = 0; j < 4; j++) q[j] = lds4(a + j * 512 + lane * 16);
        h[0] = lds4(a + 2048 + lane * 16);
        h[1] = lds4(a + 2560 + lane * 16);
        c0 = lds1(a + 3072 + lane * 4);
        c1 = lds1(a + 3200 + lane * 4);
        d = lds1(a + 3328 + (lane >> 2) * 4);
    }
    __device__ __forceinline__ u32 touched() const { return q[0].x ^ q[1].x ^ q[2].x ^ q[3].x ^ h[0].x ^ h[1].x ^ c0 ^ c1 ^ d; }
    template <class S> __device__ __forceinline__ void run(S& s) const {
        sub<0>(s, q[0].x, q[0].y, q[1].x, q[1].y, h[0].x, h[1].x);
        sub<1>(s, q[0].z, q[0].w, q[1].z, q[1].w, h[0].y, h[1].y);
        sub<2>(s, q[2].x, q[2].y, q[3].x, q[3].y, h[0].z, h[1].z);
        sub<3>(s, q[2].z, q[2].w, q[3].z, q[3].w, h[0].w, h[1].w);
    }
    template <int V, class S> __device__ __forceinline__ void sub(S& s, u32 a0, u32 a1, u32 b0, u32 b1, u32 h0, u32 h1) const {
        const u32 s0 = splat_byte(c0, V, s.thousand, MINUS_128), s1 = splat_byte(c1, V, s.thousand, MINUS_128);
        const u32 l0 = hmul2(s0, 0x80208020u), l1 = hmul2(s1, 0x80208020u); // -32 sc, and 16 times that
        const u32 k0 = hmul2(s0, 0x82008200u), k1 = hmul2(s1, 0x82008200u);
        word<4 * V, -4, -2>(s, a0, b0, h0, h1, s0, s1, l0, l1, k0, k1);
        word<4 * V + 2, 4, 6>(s, a1, b1, h0, h1, s0, s1, l0, l1, k0, k1);
    }
    template <int M, int A, int B, class S> static __device__ __forceinline__ void word(S& s, u32 w0, u32 w1, u32 h0, u32 h1, u32 s0, u32 s1, u32 l0, u32 l1, u32 k0, u32 k1) {
        constexpr u32 TOP = 0x00300030u, TOP_HIGH = 0x03000300u;
        const u32 v0 = w0 >> 8, v1 = w1 >> 8, x0 = shift<A>(h0), x1 = shift<A>(h1), y0 = shift<B>(h0), y1 = shift<B>(h1);
        s.template mma<0, M>(hfma2((w0 & LOW) | (x0 & TOP), s0, l0), hfma2((w1 & LOW) | (x1 & TOP), s1, l1),
                             hfma2((v0 & LOW) | (y0 & TOP), s0, l0), hfma2((v1 & LOW) | (y1 & TOP), s1, l1));
        s.template mma<1, M + 1>(hfma2((w0 & HIGH) | (x0 & TOP_HIGH), s0, k0), hfma2((w1 & HIGH) | (x1 & TOP_HIGH), s1, k1),
                                 hfma2((v0 & HIGH) | (y0 & TOP_HIGH), s0, k0), hfma2((v1 & HIGH) | (y1 & TOP_HIGH), s1, k1));
    }
    __device__ __forceinline__ void scales(float (&r)[2], float (&m)[2]) const {
        r[0] = half_bits(d) * UNIT;
        r[1] = half_bits(d >> 16) * UNIT;
        m[0] = m[1] = 0;
    }
};

// Weight of chain p of the 2-bit planes of Q2_K and Q3_K.
__device__ __forceinline__ constexpr float pair_chain(int p) { return p == 0 ? 1.f : p == 1 ? 0.25f : p == 2 ? 0.0625f : 0.015625f; }

template <> struct Tile<Q2_K> {
    static constexpr int BYTES = 1344, CHAINS = 4, MINIMA = 1;
    static __device__ __forceinline__ constexpr float chain(int c) { return pair_chain(c); }
    uint4 q[2];
    u32 c0, c1, d0, d1;
    __device__ __forceinline__ void load(u32 a, int lane) {
        q[0] = lds4(a + lane * 16);
        q[1] = lds4(a + 512 + lane * 16);
        c0 = lds1(a + 1024 + lane * 4);
        c1 = lds1(a + 1152 + lane * 4);
        const uint2 d = lds2(a + 1280 + (lane >> 2) * 8);
        d0 = d.x;
        d1 = d.y;
    }
    __device__ __forceinline__ u32 touched() const { return q[0].x ^ q[1].x ^ c0 ^ c1 ^ d0; }
    template <class S> __device__ __forceinline__ void run(S& s) const {
        const u32 m0 = (c0 >> 4) & 0x0f0f0f0fu, m1 = (c1 >> 4) & 0x0f0f0f0fu, e0 = c0 & 0x0f0f0f0fu, e1 = c1 & 0x0f0f0f0fu;
        s.template minimum<0>(__byte_perm(m0, 0, 0x4040), __byte_perm(m1, 0, 0x4040), __byte_perm(m0, 0, 0x4141), __byte_perm(m1, 0, 0x4141));
        s.template minimum<1>(__byte_perm(m0, 0, 0x4242), __byte_perm(m1, 0, 0x4242), __byte_perm(m0, 0, 0x4343), __byte_perm(m1, 0, 0x4343));
        word<0>(s, q[0].x, q[1].x, e0, e1);
        word<1>(s, q[0].y, q[1].y, e0, e1);
        word<2>(s, q[0].z, q[1].z, e0, e1);
        word<3>(s, q[0].w, q[1].w, e0, e1);
    }
    template <int V, class S> static __device__ __forceinline__ void word(S& s, u32 w0, u32 w1, u32 e0, u32 e1) {
        const u32 s0 = splat_byte(e0, V, s.thousand, MINUS_0), s1 = splat_byte(e1, V, s.thousand, MINUS_0), v0 = w0 >> 8, v1 = w1 >> 8;
        one<V, 0>(s, w0, w1, v0, v1, s0, s1);
        one<V, 1>(s, w0, w1, v0, v1, s0, s1);
        one<V, 2>(s, w0, w1, v0, v1, s0, s1);
        one<V, 3>(s, w0, w1, v0, v1, s0, s1);
    }
    template <int V, int P, class S> static __device__ __forceinline__ void one(S& s, u32 w0, u32 w1, u32 v0, u32 v1, u32 s0, u32 s1) {
        constexpr u32 K = 0x00030003u << 2 * P;
        s.template mma<P, 4 * V + P>(hmul2(w0 & K, s0), hmul2(w1 & K, s1), hmul2(v0 & K, s0), hmul2(v1 & K, s1));
    }
    __device__ __forceinline__ void scales(float (&d)[2], float (&m)[2]) const { scales_with_minima(d0, d1, d, m); }
};

template <> struct Tile<Q3_K> {
    static constexpr int BYTES = 1760, CHAINS = 4, MINIMA = 1;
    static __device__ __forceinline__ constexpr float chain(int c) { return pair_chain(c); }
    uint4 q[2], h;
    u32 low, high, d;
    __device__ __forceinline__ void load(u32 a, int lane) {
        q[0] = lds4(a + lane * 16);
        q[1] = lds4(a + 512 + lane * 16);
        h = lds4(a + 1024 + lane * 16);
        low = lds1(a + 1536 + lane * 4);
        high = lds_half(a + 1664 + lane * 2);
        d = lds1(a + 1728 + (lane >> 2) * 4);
    }
    __device__ __forceinline__ u32 touched() const { return q[0].x ^ q[1].x ^ h.x ^ low ^ high ^ d; }
    template <class S> __device__ __forceinline__ void run(S& s) const {
        const u32 e0 = (low & 0x0f0f0f0fu) | (high & 0x3030u) | ((high << 14) & 0x30300000u);
        const u32 e1 = ((low >> 4) & 0x0f0f0f0fu) | ((high << 4) & 0x3030u) | ((high << 18) & 0x30300000u);
        u32 a[4], b[4];
#pragma unroll
        for (int v = 0; v < 4; v++) {
            a[v] = splat_byte(e0, v, s.thousand, MINUS_32);
            b[v] = splat_byte(e1, v, s.thousand, MINUS_32);
        }
        s.template minimum<0>(a[0], b[0], a[1], b[1]);
        s.template minimum<1>(a[2], b[2], a[3], b[3]);
        word<0>(s, q[0].x, q[1].x, h.x, h.z, a[0], b[0]);
        word<1>(s, q[0].y, q[1].y, h.x, h.z, a[1], b[1]);
        word<2>(s, q[0].z, q[1].z, h.y, h.w, a[2], b[2]);
        word<3>(s, q[0].w, q[1].w, h.y, h.w, a[3], b[3]);
    }
    template <int V, class S> static __device__ __forceinline__ void word(S& s, u32 w0, u32 w1, u32 h0, u32 h1, u32 s0, u32 s1) {
        constexpr int UP = 2 - (V & 1);
        const u32 v0 = w0 >> 8, v1 = w1 >> 8, x0 = h0 << UP, x1 = h1 << UP, y0 = h0 >> (8 - UP), y1 = h1 >> (8 - UP);
        one<V, 0>(s, w0, w1, v0, v1, x0, x1, y0, y1, s0, s1);
        one<V, 1>(s, w0, w1, v0, v1, x0, x1, y0, y1, s0, s1);
        one<V, 2>(s, w0, w1, v0, v1, x0, x1, y0, y1, s0, s1);
        one<V, 3>(s, w0, w1, v0, v1, x0, x1, y0, y1, s0, s1);
    }
    template <int V, int P, class S> static __device__ __forceinline__ void one(S& s, u32 w0, u32 w1, u32 v0, u32 v1, u32 x0, u32 x1, u32 y0, u32 y1, u32 s0, u32 s1) {
        constexpr u32 K = 0x00030003u << 2 * P, H = 0x00040004u << 2 * P;
        s.template mma<P, 4 * V + P>(hmul2((w0 & K) | (x0 & H), s0), hmul2((w1 & K) | (x1 & H), s1), hmul2((v0 & K) | (y0 & H), s0), hmul2((v1 & K) | (y1 & H), s1));
    }
    __device__ __forceinline__ void scales(float (&r)[2], float (&m)[2]) const {
        const float x = half_bits(d), y = half_bits(d >> 16);
        r[0] = x * UNIT;
        r[1] = y * UNIT;
        m[0] = x * 4.f;
        m[1] = y * 4.f;
    }
};

template <> struct Tile<Q8_0> {
    static constexpr int BYTES = 4352, CHAINS = 2, MINIMA = 0;
    static __device__ __forceinline__ constexpr float chain(int) { return 1.f; }
    uint4 q[8];
    uint2 d;
    __device__ __forceinline__ void load(u32 a, int lane) {
#pragma unroll
        for (int j = 0; j < 8; j++) q[j] = lds4(a + j * 512 + lane * 16);
        d = lds2(a + 4096 + lane * 8);
    }
    __device__ __forceinline__ u32 touched() const { return q[0].x ^ q[1].x ^ q[2].x ^ q[3].x ^ q[4].x ^ q[5].x ^ q[6].x ^ q[7].x ^ d.x; }
    template <class S> __device__ __forceinline__ void run(S& s) const {
        const u32 e0 = __byte_perm(d.x, 0, 0x1010), e1 = __byte_perm(d.x, 0, 0x3232), f0 = __byte_perm(d.y, 0, 0x1010), f1 = __byte_perm(d.y, 0, 0x3232);
        four<0>(s, q[0], q[4], e0, f0);
        four<4>(s, q[1], q[5], e0, f0);
        four<8>(s, q[2], q[6], e1, f1);
        four<12>(s, q[3], q[7], e1, f1);
    }
    template <int M, class S> static __device__ __forceinline__ void four(S& s, uint4 a, uint4 b, u32 e, u32 f) {
        one<M>(s, a.x, b.x, e, f);
        one<M + 1>(s, a.y, b.y, e, f);
        one<M + 2>(s, a.z, b.z, e, f);
        one<M + 3>(s, a.w, b.w, e, f);
    }
    template <int M, class S> static __device__ __forceinline__ void one(S& s, u32 w0, u32 w1, u32 e, u32 f) {
        constexpr u32 K = 0x64646464u;
        s.template mma<M & 1, M>(hmul2(hadd2(__byte_perm(w0, K, 0x4140), MINUS_128), e), hmul2(hadd2(__byte_perm(w1, K, 0x4140), MINUS_128), f),
                                 hmul2(hadd2(__byte_perm(w0, K, 0x4342), MINUS_128), e), hmul2(hadd2(__byte_perm(w1, K, 0x4342), MINUS_128), f));
    }
    __device__ __forceinline__ void scales(float (&r)[2], float (&m)[2]) const {
        r[0] = r[1] = 1.f;
        m[0] = m[1] = 0;
    }
};
