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
// A warp takes one head of one column, a lane four of its dimensions: 32 chunks at a time, all their loads at once.
template <int NC> __device__ __forceinline__ void combine(const Step& p, int layer, int warp, int lane) {
    const int b = turn(p.turn_b, layer), R = p.group, total = p.columns.count * p.heads;
    const Out out{p.x[1][b], p.x[1][(b + 1) % 3]};
    for (int item = blockIdx.x + gridDim.x * warp; item < total; item += gridDim.x * WARPS) {
        const int head = item % p.heads, n = item / p.heads;
        const int first = ((n * p.kv_heads + head / R) * p.chunks) * R + head % R, chunks = p.columns.at[n].position / 32 + 1;
        const u32 target = p.parts_base[n] + (layer + 1) * chunks;
        for (int tries = 0; (int)(load_acquire(p.parts_there + n * p.kv_heads + head / R) - target) < 0; tries++)
            if (tries > PATIENCE) __trap();
        __syncwarp();
        float most = -1e30f, den = 0, num[4] = {};
#pragma unroll 1
        for (int base = 0; base < chunks; base += 32) {
            const float2 m = base + lane < chunks ? __ldcg(p.part_max + first + (base + lane) * R) : make_float2(-1e30f, 0.f);
            float4 v[32];
#pragma unroll
            for (int c = 0; c < 32; c++) {
                v[c] = make_float4(0.f, 0.f, 0.f, 0.f);
                if (base + c < chunks) v[c] = __ldcg((const float4*)(p.part + (size_t)(first + (base + c) * R) * HEAD_DIM) + lane);
            }
            float top = fmaxf(most, m.x);
#pragma unroll
            for (int o = 1; o < 32; o <<= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
            const float keep = exp2f(most - top);
#pragma unroll
            for (int i = 0; i < 4; i++) num[i] *= keep;
            den *= keep;
            most = top;
            const float e = exp2f(m.x - most), l = e * m.y;
#pragma unroll
            for (int h = 0; h < 4; h++) {
                if (base + 8 * h >= chunks) break;
#pragma unroll
                for (int k = 0; k < 8; k++) {
                    const int c = 8 * h + k;
                    const float w = __shfl_sync(~0u, e, c);
                    num[0] = fmaf(w, v[c].x, num[0]);
                    num[1] = fmaf(w, v[c].y, num[1]);
                    num[2] = fmaf(w, v[c].z, num[2]);
                    num[3] = fmaf(w, v[c].w, num[3]);
                    den += __shfl_sync(~0u, l, c);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) num[i] /= den;
        publish4<NC>(out, n, head * HEAD_DIM + 4 * lane, num);
    }
}
// One column's cached keys and values of `layer`, on their way into L2: 8 KB of either.
__device__ __forceinline__ void fetch(const Step& p, int layer, int item) {
    const int chunk = item % p.chunks, rest = item / p.chunks;
    if (rest >= 2 * p.kv_heads || chunk * 32 > p.columns.at[0].position) return;
    prefetch_l2((rest & 1 ? p.values : p.keys) + cache_at(p, layer, 0, rest >> 1) + (size_t)chunk * 32 * HEAD_DIM, 32 * HEAD_DIM * 2);
}
