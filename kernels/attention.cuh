// attention.cuh: attention over the cache, by the compute warps of all CTAs: a part each, which is counted; who finds all parts of a
// head counted takes them together.
#pragma once
#include "exchange.cuh"

// ---- attention -----------------------------------------------------------------------------------------------------------------------
// A warp takes 32 positions of one (column, kv head), all its query heads (at most 8) as rows of the mma; partial results are combined
// in the order of the positions. 16 KB of keys and values an item.
__device__ __forceinline__ u32 half2_bits(float a, float b) { const __half2 h = __floats2half2_rn(a, b); return *(const u32*)&h; }
__device__ __forceinline__ uint4 load_cg(const __half* p) { return __ldcg((const uint4*)p); }
__device__ __forceinline__ size_t cache_at(const Step& p, int layer, int n, int kv) {
    return (((size_t)layer * p.slots + p.columns.at[n].slot) * p.kv_heads + kv) * p.context * HEAD_DIM;
}
__device__ __forceinline__ void attend_item(const Step& p, int layer, int lane, int item, int chunk, int kv, int n) {
    const int g = lane >> 2, t = lane & 3, R = p.group, first = chunk * 32, last = p.columns.at[n].position;
    const size_t at = cache_at(p, layer, n, kv) + (size_t)first * HEAD_DIM;
    const __half *K = p.keys + at, *V = p.values + at;
    uint4 k[4][4], q[4], v[16];
    float s[4][4] = {};
#pragma unroll
    for (int u = 0; u < 4; u++)
#pragma unroll
        for (int i = 0; i < 4; i++) k[u][i] = load_cg(K + (8 * (g >> 1) + 2 * u + (g & 1)) * HEAD_DIM + 8 * t + 32 * i);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        q[i] = make_uint4(0, 0, 0, 0);
        if (g < R) q[i] = load_cg(p.q + (size_t)n * p.heads * HEAD_DIM + (kv * R + g) * HEAD_DIM + 32 * i + 8 * t);
    }
#pragma unroll
    for (int j = 0; j < 16; j++) v[j] = load_cg(V + (8 * j + g) * 32 + 8 * t);
#pragma unroll
    for (int u = 0; u < 4; u++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            mma(s[u], q[i].x, 0, q[i].y, 0, k[u][i].x, k[u][i].y);
            mma(s[u], q[i].z, 0, q[i].w, 0, k[u][i].z, k[u][i].w);
        }
    float most = -1e30f, total = 0;
#pragma unroll
    for (int u = 0; u < 4; u++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            if (first + 8 * t + 2 * u + e > last) s[u][e] = -1e30f;
            most = fmaxf(most, s[u][e]);
        }
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    u32 a[4];
#pragma unroll
    for (int u = 0; u < 4; u++) {
        s[u][0] = exp2f(s[u][0] - most);
        s[u][1] = exp2f(s[u][1] - most);
        total += s[u][0] + s[u][1];
        a[u] = half2_bits(s[u][0], s[u][1]);
    }
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    float* out = p.part + ((size_t)item * R + g) * HEAD_DIM + 2 * t;
    if (g < R && t == 0) p.part_max[item * R + g] = make_float2(most, total);
#pragma unroll
    for (int j = 0; j < 16; j++) {
        float o[4] = {};
        mma(o, a[0], 0, a[1], 0, v[j].x, v[j].y);
        mma(o, a[2], 0, a[3], 0, v[j].z, v[j].w);
        if (g < R) *(float2*)(out + 8 * j) = make_float2(o[0], o[1]);
    }
    __syncwarp();
    if (lane == 0) add_release(p.parts_there + n * p.kv_heads + kv);
}
__device__ __forceinline__ void attend(const Step& p, int layer, int warp, int lane) {
    const int items = p.columns.count * p.kv_heads * p.chunks;
    for (int item = blockIdx.x + gridDim.x * warp; item < items; item += gridDim.x * WARPS) {
        const int chunk = item % p.chunks, kv = item / p.chunks % p.kv_heads, n = item / p.chunks / p.kv_heads;
        if (chunk * 32 <= p.columns.at[n].position) attend_item(p, layer, lane, item, chunk, kv, n);
    }
}
template <int NC> __device__ __forceinline__ void combine(const Step& p, int layer, int warp, int lane) { // a half warp takes 16 dimensions of one head
    const int b = turn(p.turn_b, layer), i = lane & 15, R = p.group, total = p.columns.count * p.heads * (HEAD_DIM / 16);
    const Out out{p.x[1][b], p.x[1][(b + 1) % 3]};
    for (int at = (blockIdx.x + gridDim.x * warp) * 2; at < total; at += gridDim.x * WARPS * 2) {
        const int it = at + (lane >> 4);
        const bool on = it < total;
        const int item = on ? it : at, d = item % 8 * 16 + i, head = item / 8 % p.heads, n = item / 8 / p.heads;
        const int first = ((n * p.kv_heads + head / R) * p.chunks) * R + head % R, chunks = p.columns.at[n].position / 32 + 1;
        const u32 target = p.parts_base[n] + (layer + 1) * chunks;
        for (int tries = 0; (int)(load_acquire(p.parts_there + n * p.kv_heads + head / R) - target) < 0; tries++)
            if (tries > PATIENCE) __trap();
        __syncwarp();
        const int longest = max(chunks, __shfl_xor_sync(~0u, chunks, 16));
        float most = -1e30f, num = 0, den = 0;
        // 32 chunks at a time, all their loads at once: a lane has its dimension of each, and the maxima of two.
#pragma unroll 1
        for (int base = 0; base < longest; base += 32) {
            float2 m[2];
            float v[32];
#pragma unroll
            for (int h = 0; h < 2; h++) m[h] = base + 16 * h + i < chunks ? __ldcg(p.part_max + first + (base + 16 * h + i) * R) : make_float2(-1e30f, 0.f);
#pragma unroll
            for (int c = 0; c < 32; c++) v[c] = base + c < chunks ? __ldcg(p.part + (size_t)(first + (base + c) * R) * HEAD_DIM + d) : 0.f;
            float top = fmaxf(most, fmaxf(m[0].x, m[1].x));
#pragma unroll
            for (int o = 1; o < 16; o <<= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
            const float keep = exp2f(most - top);
            num *= keep;
            den *= keep;
            most = top;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                if (base + 16 * h >= longest) break;
                const float e = exp2f(m[h].x - most), l = e * m[h].y;
#pragma unroll
                for (int c = 0; c < 16; c++) {
                    num = fmaf(__shfl_sync(~0u, e, c, 16), v[16 * h + c], num);
                    den += __shfl_sync(~0u, l, c, 16);
                }
            }
        }
        publish<NC>(out, n, head * HEAD_DIM + d, num / den, on);
    }
}
// One column's cached keys and values of `layer`, on their way into L2: 8 KB of either.
__device__ __forceinline__ void fetch(const Step& p, int layer, int item) {
    const int chunk = item % p.chunks, rest = item / p.chunks;
    if (rest >= 2 * p.kv_heads || chunk * 32 > p.columns.at[0].position) return;
    prefetch_l2((rest & 1 ? p.values : p.keys) + cache_at(p, layer, 0, rest >> 1) + (size_t)chunk * 32 * HEAD_DIM, 32 * HEAD_DIM * 2);
}
