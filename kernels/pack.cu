// pack.cu: weights as they lie in a GGUF file -> tiles (layout: tiles.cuh), and weights out of a seed. Run once, at load.
//
// pack: one warp a tile, lane = 4 g + t gathers the 2 x 64 weights that it will own in the matrix product. Reads and writes the
// matrix once. A part of a matrix may go to every second row group (gate and up lie interleaved, so that one CTA has both):
// row group r of the source becomes row group r * stride + offset.
#include "blocks.cuh"

// A row's super-block as integers: weight k (0..255), and scale and minimum of its sub-block.
template <int T> __device__ __forceinline__ int quant(const u8* b, int k) {
    const int l = k & 31;
    if (T == Q4_K || T == Q5_K) {
        const u8 v = b[(T == Q4_K ? 16 : 48) + 32 * (k >> 6) + l];
        const int q = k & 32 ? v >> 4 : v & 15;
        return T == Q4_K ? q : q | ((b[16 + l] >> (k >> 5)) & 1) << 4;
    }
    if (T == Q6_K) {
        const int quarter = (k >> 5) & 3;
        const u8 v = b[64 * (k >> 7) + l + 32 * (quarter & 1)];
        return (quarter & 2 ? v >> 4 : v & 15) | ((b[128 + 32 * (k >> 7) + l] >> 2 * quarter) & 3) << 4;
    }
    if (T == Q2_K) return (b[16 + 32 * (k >> 7) + l] >> 2 * ((k >> 5) & 3)) & 3;
    if (T == Q3_K) return ((b[32 + 32 * (k >> 7) + l] >> 2 * ((k >> 5) & 3)) & 3) | ((b[l] >> (k >> 5)) & 1) << 2;
    return (i8)b[34 * (k >> 5) + 2 + l]; // Q8_0
}
__device__ __forceinline__ u32 u16_at(const u8* p) { return p[0] | p[1] << 8; }

// Where weight k of a lane's 64 sits in its word: nibble planes, and 2-bit planes.
__device__ __forceinline__ int nibble_bit(int k) { return (k & 3) == 0 ? (k & 4) : (k & 3) == 1 ? 16 + (k & 4) : (k & 3) == 2 ? 8 + (k & 4) : 24 + (k & 4); }
__device__ __forceinline__ int pair_bit(int k) { return ((k & 1) << 4) + ((k & 2) << 2) + 2 * ((k >> 2) & 3); }

template <int T> __device__ __forceinline__ void pack_lane(const u8* b0, const u8* b1, u8* tile, int lane) {
    const int g = lane >> 2, t = lane & 3;
    for (int hi = 0; hi < 2; hi++) {
        const u8* b = hi ? b1 : b0;
        u32 w[16] = {}, h[4] = {};
        for (int k = 0; k < 64; k++) {
            const int q = b ? quant<T>(b, 64 * t + k) : T == Q6_K ? 32 : T == Q3_K ? 4 : 0, i = k >> 3;
            if (T == Q4_K || T == Q5_K || T == Q6_K) w[i] |= (u32)(q & 15) << nibble_bit(k & 7);
            if (T == Q5_K) h[i >> 2] |= (u32)(q >> 4) << ((k & 4 ? 8 : 4) + ((i & 3) < 2 ? -4 + 2 * (i & 3) : 2 * (i & 3)) + ((k >> 1) & 1) + (k & 1) * 16);
            if (T == Q6_K) h[i >> 1] |= (u32)(q >> 4) << ((k & 4 ? 8 : 4) + (i & 1 ? 4 : -4) + (k & 2) + (k & 1) * 16);
            if (T == Q2_K || T == Q3_K) w[k >> 4] |= (u32)(q & 3) << pair_bit(k & 15);
            if (T == Q3_K) h[k >> 5] |= (u32)(q >> 2) << (pair_bit(k & 15) + ((k >> 4) & 1));
            if (T == Q8_0) w[k >> 2] |= (u32)(u8)(q + 128) << 8 * (k & 3);
        }
        if (T == Q4_K || T == Q5_K || T == Q6_K)
            for (int i = 0; i < 8; i++) *(u32*)(tile + ((i >> 2) * 2 + hi) * 512 + lane * 16 + (i & 3) * 4) = w[i];
        if (T == Q5_K)
            for (int i = 0; i < 2; i++) *(u32*)(tile + 2048 + lane * 16 + hi * 8 + i * 4) = h[i];
        if (T == Q6_K) {
            for (int i = 0; i < 4; i++) *(u32*)(tile + 2048 + hi * 512 + lane * 16 + i * 4) = h[i];
            for (int v = 0; v < 4; v++) tile[3072 + hi * 128 + lane * 4 + v] = (u8)((b ? (i8)b[192 + 4 * t + v] : 0) + 128);
            if (t == 0) *(u16*)(tile + 3328 + g * 4 + hi * 2) = b ? u16_at(b + 208) : 0;
        }
        if (T == Q2_K || T == Q3_K)
            for (int i = 0; i < 4; i++) *(u32*)(tile + hi * 512 + lane * 16 + i * 4) = w[i];
        if (T == Q2_K) {
            for (int v = 0; v < 4; v++) tile[1024 + hi * 128 + lane * 4 + v] = b ? b[4 * t + v] : 0;
            if (t == 0) *(u32*)(tile + 1280 + g * 8 + hi * 4) = b ? u16_at(b + 80) | u16_at(b + 82) << 16 : 0;
        }
        if (T == Q3_K) {
            for (int i = 0; i < 2; i++) *(u32*)(tile + 1024 + lane * 16 + hi * 8 + i * 4) = h[i];
            if (t == 0) *(u16*)(tile + 1728 + g * 4 + hi * 2) = b ? u16_at(b + 108) : 0;
        }
        if (T == Q8_0) {
            for (int i = 0; i < 16; i++) *(u32*)(tile + (hi * 4 + (i >> 2)) * 512 + lane * 16 + (i & 3) * 4) = w[i];
            for (int j = 0; j < 2; j++) *(u16*)(tile + 4096 + lane * 8 + hi * 4 + j * 2) = b ? u16_at(b + 34 * (2 * t + j)) : 0;
        }
        if ((T == Q4_K || T == Q5_K) && t == 0) *(u32*)(tile + (T == Q4_K ? 2240 : 2752) + g * 8 + hi * 4) = b ? u16_at(b) | u16_at(b + 2) << 16 : 0;
    }
    if (T == Q4_K || T == Q5_K) { // the scales of both rows share 48 bits
        constexpr int at = T == Q4_K ? 2048 : 2560;
        u32 s[4] = {}, m[4] = {};
        for (int f = 0; f < 4; f++) {
            const u8* b = f >> 1 ? b1 : b0;
            if (!b) continue;
            const u8* p = b + 4;
            const int j = 2 * t + (f & 1);
            s[f] = j < 4 ? p[j] & 63 : (p[j + 4] & 15) | (p[j - 4] >> 6) << 4;
            m[f] = j < 4 ? p[j + 4] & 63 : (p[j + 4] >> 4) | (p[j] >> 6) << 4;
        }
        *(u32*)(tile + at + lane * 4) = s[0] | s[1] << 6 | s[2] << 12 | s[3] << 18 | m[0] << 24 | (m[3] & 3) << 30;
        *(u16*)(tile + at + 128 + lane * 2) = (u16)(m[1] | m[2] << 6 | (m[3] >> 2) << 12);
    }
    if (T == Q3_K) {
        u32 low = 0, high = 0;
        for (int f = 0; f < 8; f++) {
            const u8* b = f >> 2 ? b1 : b0;
            const int v = f & 3, j = 4 * t + v;
            u32 s = 32;
            if (b) s = (j < 8 ? b[96 + j] & 15 : b[96 + j - 8] >> 4) | ((b[104 + (j & 3)] >> 2 * (j >> 2)) & 3) << 4;
            low |= (s & 15) << (8 * v + 4 * (f >> 2));
            high |= (s >> 4) << ((f >> 2 ? 0 : 4) + (v & 1) * 8 + (v & 2));
        }
        *(u32*)(tile + 1536 + lane * 4) = low;
        *(u16*)(tile + 1664 + lane * 2) = (u16)high;
    }
}

// source: rows of `supers` super-blocks (256 weights) each. tiles: [row group][super-block]. One warp a (row group,
// super-block), `groups` row groups.
extern "C" __global__ void __launch_bounds__(128) pack(int type, const u8* source, int rows, int supers, int groups, int stride, int offset, u8* tiles) {
    const u64 index = (u64)blockIdx.x * 4 + (threadIdx.x >> 5);
    if (index >= (u64)groups * supers) return;
    const int lane = threadIdx.x & 31, group = (int)(index / supers), super = (int)(index % supers), to = group * stride + offset;
    const int super_bytes = type == Q8_0 ? 272 : block_bytes(type), row = group * 16 + (lane >> 2);
    const u8* b0 = row < rows ? source + ((u64)row * supers + super) * super_bytes : nullptr;
    const u8* b1 = row + 8 < rows ? source + ((u64)(row + 8) * supers + super) * super_bytes : nullptr;
    u8* tile = tiles + ((u64)to * supers + super) * 16 * super_bytes;
    switch (type) {
        case Q2_K: pack_lane<Q2_K>(b0, b1, tile, lane); break;
        case Q3_K: pack_lane<Q3_K>(b0, b1, tile, lane); break;
        case Q4_K: pack_lane<Q4_K>(b0, b1, tile, lane); break;
        case Q5_K: pack_lane<Q5_K>(b0, b1, tile, lane); break;
        case Q6_K: pack_lane<Q6_K>(b0, b1, tile, lane); break;
        case Q8_0: pack_lane<Q8_0>(b0, b1, tile, lane); break;
    }
}

// ---- synthetic weights: the generator of src/engine/synth.rs, byte for byte ----------------------------------------------------
__device__ __forceinline__ u64 split_mix(u64 x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return x ^ x >> 31;
}
__device__ __forceinline__ u64 word_of(u64 key, u64 index) { return split_mix(key + (index + 1) * 0x9E3779B97F4A7C15ull); }
// One thread a block, `count` blocks from block `first` on: random bytes, then the tensor's constants d and m at their offsets
// (m_at < 0: no minimum). Float types: low + step * (24 random bits).
extern "C" __global__ void generate(u64 key, int type, u64 first, u64 count, int d_at, int m_at, u32 d, u32 m, float low, float step, u8* out) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x, b = first + i;
    if (i >= count) return;
    const int bytes = block_bytes(type);
    u8* p = out + i * bytes;
    if (is_plain(type)) {
        const float w = __fadd_rn(low, __fmul_rn(step, (float)(u32)(word_of(key, b) >> 40)));
        if (type == F32) *(float*)p = w;
        if (type == F16) *(__half*)p = __float2half_rn(w);
        if (type == BF16) {
            const u32 x = __float_as_uint(w);
            *(u16*)p = (u16)((x + 0x7fffu + ((x >> 16) & 1)) >> 16);
        }
        return;
    }
    const int words = (bytes + 7) / 8;
    for (int k = 0; k < words; k++) {
        u64 w = word_of(key, b * words + k);
        for (int e = 8 * k; e < bytes && e < 8 * k + 8; e += 2, w >>= 16) *(u16*)(p + e) = (u16)w; // every block is an even number of bytes
    }
    *(u16*)(p + d_at) = (u16)d;
    if (m_at >= 0) *(u16*)(p + m_at) = (u16)m;
}
