// plain.cu: the whole forward pass, one small kernel an operation, for any chip from compute capability 7.5 on.
//
// It runs every tensor type and every shape; where a chip and a model allow it, step.cu is many times faster. A "column" is
// one token of one stream at one position: decoding gives a column a stream, a prompt gives many columns of one stream.
// Activations are f32, [column][feature], and so are the cached keys and values, [layer][slot][kv head][position][head
// dimension]. Every sum is taken in an order that depends on the column alone: a stream's bits do not depend on its company,
// and there are no atomics.
#include "blocks.cuh"

struct Column { int token, slot, position, want; };   // want: the logits of this column are needed
struct Columns { int count; Column at[16]; };

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
    return v;
}

// ---- rows to floats ---------------------------------------------------------------------------------------------------
// out[i] = the 8 x 32 x gridDim weights of a row, from its blocks. Grid: x over 256 weights, y over rows.
struct RowOut {
    const u8* row; float* out; int k;
    template <int T> __device__ __forceinline__ void run() {
        float w[8];
        dequant8<T>(row, k, w);
#pragma unroll
        for (int e = 0; e < 8; e++) out[k + e] = w[e];
    }
};
__device__ __forceinline__ void row_to_floats(int type, const u8* row, int width, float* out) {
    int k = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
    if (k + 8 <= width) {
        RowOut f{row, out, k};
        with_type(type, f);
    } else if (is_plain(type)) {
        for (; k < width; k++) out[k] = plain_weight(type, row, k);
    }
}
// Reads rows * row_bytes, writes rows * width * 4 bytes.
extern "C" __global__ void dequantize(int type, const u8* rows, size_t row_bytes, int width, float* out) {
    row_to_floats(type, rows + blockIdx.y * row_bytes, width, out + (size_t)blockIdx.y * width);
}
// h[column] = row `token` of the embedding table.
extern "C" __global__ void embed(const __grid_constant__ Columns c, int type, const u8* table, size_t row_bytes, int width, float* h) {
    row_to_floats(type, table + (size_t)c.at[blockIdx.y].token * row_bytes, width, h + (size_t)blockIdx.y * width);
}

// ---- norm ---------------------------------------------------------------------------------------------------------------
// x[column] = h[column] / rms(h[column]) * gain. One block of 256 threads a column; 12 bytes a feature.
extern "C" __global__ void rms_norm(const float* h, const float* gain, float* x, int width, float eps) {
    __shared__ float part[8];
    h += (size_t)blockIdx.x * width;
    x += (size_t)blockIdx.x * width;
    float s = 0;
    for (int i = threadIdx.x; i < width; i += 256) s = fmaf(h[i], h[i], s);
    s = warp_sum(s);
    if ((threadIdx.x & 31) == 0) part[threadIdx.x >> 5] = s;
    __syncthreads();
    s = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) s += part[i];
    const float r = 1.f / sqrtf(s / width + eps);
    for (int i = threadIdx.x; i < width; i += 256) x[i] = h[i] * r * gain[i];
}

// ---- matrix ---------------------------------------------------------------------------------------------------------------
// y[column][row] (+)= sum over k of w[row][k] x[column][k]. A warp a row, eight warps a block; blockIdx.y takes N columns.
// Reads the matrix once for every N columns, and x (width * 4 bytes a column) through L1 for every row.
template <int N> struct Dot {
    const u8* row; const float* x; int width, lane, columns; float acc[N];
    template <int T> __device__ __forceinline__ void run() {
#pragma unroll 1
        for (int k = lane * 8; k + 8 <= width; k += 256) {
            float w[8];
            dequant8<T>(row, k, w);
#pragma unroll
            for (int n = 0; n < N; n++) {
                if (n >= columns) break;
                const float* v = x + (size_t)n * width + k;
#pragma unroll
                for (int e = 0; e < 8; e++) acc[n] = fmaf(w[e], v[e], acc[n]);
            }
        }
    }
};
template <int N> __device__ __forceinline__ void matrix_body(int type, const u8* w, size_t row_bytes, int rows, int width, const float* x, float* y, int stride, int columns, int accumulate) {
    const int r = blockIdx.x * 8 + (threadIdx.x >> 5), first = blockIdx.y * N;
    if (r >= rows) return;
    Dot<N> d{w + r * row_bytes, x + (size_t)first * width, width, (int)threadIdx.x & 31, min(N, columns - first), {}};
    with_type(type, d);
    if (is_plain(type))
        for (int k = (width & ~7) + d.lane; k < width; k += 32)
#pragma unroll
            for (int n = 0; n < N; n++)
                if (n < d.columns) d.acc[n] = fmaf(plain_weight(type, d.row, k), d.x[(size_t)n * width + k], d.acc[n]);
#pragma unroll
    for (int n = 0; n < N; n++) {
        const float v = warp_sum(d.acc[n]);
        if (d.lane == 0 && n < d.columns) {
            float* p = y + (size_t)(first + n) * stride + r;
            *p = accumulate ? *p + v : v;
        }
    }
}
extern "C" __global__ void __launch_bounds__(256) matrix1(int type, const u8* w, size_t row_bytes, int rows, int width, const float* x, float* y, int stride, int columns, int accumulate) {
    matrix_body<1>(type, w, row_bytes, rows, width, x, y, stride, columns, accumulate);
}
extern "C" __global__ void __launch_bounds__(256) matrix8(int type, const u8* w, size_t row_bytes, int rows, int width, const float* x, float* y, int stride, int columns, int accumulate) {
    matrix_body<8>(type, w, row_bytes, rows, width, x, y, stride, columns, accumulate);
}

// ---- positions and cache ----------------------------------------------------------------------------------------------------
// Rotates neighbouring pairs of q and k by their position and puts k and v into the cache. qkv: [column][q | k | v].
// rope: [position][rotated / 2] of (cos, sin), made on the host in f64. One thread a pair; grid y over columns.
extern "C" __global__ void rope_and_cache(const __grid_constant__ Columns c, float* qkv, const float2* rope, float* keys, float* values, int heads, int kv_heads, int head_dim, int rotated, int context, int slots, int layer) {
    const int half = head_dim / 2, pair = blockIdx.x * blockDim.x + threadIdx.x, head = pair / half, i = pair % half;
    if (head >= heads + 2 * kv_heads) return;
    const Column col = c.at[blockIdx.y];
    float* p = qkv + (size_t)blockIdx.y * (heads + 2 * kv_heads) * head_dim + head * head_dim + 2 * i;
    float a = p[0], b = p[1];
    if (head < heads + kv_heads && 2 * i < rotated) {
        const float2 cs = rope[(size_t)col.position * (rotated / 2) + i];
        const float t = a * cs.x - b * cs.y;
        b = a * cs.y + b * cs.x;
        a = t;
    }
    if (head < heads) {
        p[0] = a;
        p[1] = b;
        return;
    }
    float* cache = head < heads + kv_heads ? keys : values;
    const int kv = (head - heads) % kv_heads;
    cache += ((((size_t)layer * slots + col.slot) * kv_heads + kv) * context + col.position) * head_dim + 2 * i;
    cache[0] = a;
    cache[1] = b;
}

// ---- attention ------------------------------------------------------------------------------------------------------------
// out[column][head] = softmax(q k / sqrt(head_dim)) v over positions 0..=position, 128 positions at a time with a running
// maximum. A block of 128 threads a (head, column). Shared: q, the accumulated output, 128 weights.
extern "C" __global__ void __launch_bounds__(128) attention(const __grid_constant__ Columns c, const float* qkv, const float* keys, const float* values, float* out, int heads, int kv_heads, int head_dim, int context, int slots, int layer, float scale) {
    extern __shared__ float shared[];
    float *q = shared, *sum = q + head_dim, *weight = sum + head_dim;
    __shared__ float part[4];
    const int head = blockIdx.x, tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
    const Column col = c.at[blockIdx.y];
    const float* source = qkv + (size_t)blockIdx.y * (heads + 2 * kv_heads) * head_dim + head * head_dim;
    for (int d = tid; d < head_dim; d += 128) {
        q[d] = source[d] * scale;
        sum[d] = 0;
    }
    const size_t at = (((size_t)layer * slots + col.slot) * kv_heads + head / (heads / kv_heads)) * context * head_dim;
    float most = -INFINITY, total = 0;
    __syncthreads();
    for (int first = 0; first <= col.position; first += 128) {
        const int p = first + tid, here = min(128, col.position + 1 - first);
        float s = -INFINITY;
        if (p <= col.position) {
            s = 0;
            const float* k = keys + at + (size_t)p * head_dim;
            for (int d = 0; d < head_dim; d++) s = fmaf(q[d], k[d], s);
        }
        float m = s;
#pragma unroll
        for (int o = 16; o; o >>= 1) m = fmaxf(m, __shfl_xor_sync(~0u, m, o));
        if (lane == 0) part[warp] = m;
        __syncthreads();
        m = fmaxf(fmaxf(fmaxf(part[0], part[1]), fmaxf(part[2], part[3])), most);
        const float e = p <= col.position ? expf(s - m) : 0.f, old = expf(most - m);
        weight[tid] = e;
        most = m;
        s = warp_sum(e);
        __syncthreads();
        if (lane == 0) part[warp] = s;
        __syncthreads();
        total = total * old + (part[0] + part[1] + part[2] + part[3]);
        for (int d = tid; d < head_dim; d += 128) {
            float o = sum[d] * old;
            const float* v = values + at + (size_t)first * head_dim + d;
            for (int i = 0; i < here; i++) o = fmaf(weight[i], v[(size_t)i * head_dim], o);
            sum[d] = o;
        }
        __syncthreads();
    }
    for (int d = tid; d < head_dim; d += 128) out[(size_t)blockIdx.y * heads * head_dim + head * head_dim + d] = sum[d] / total;
}

// ---- feed-forward ------------------------------------------------------------------------------------------------------------
// x[column][i] = silu(gate) * up; gate_up: [column][gate | up].
extern "C" __global__ void silu_mul(const float* gate_up, float* x, int width) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= width) return;
    const float* g = gate_up + (size_t)blockIdx.y * 2 * width + i;
    x[(size_t)blockIdx.y * width + i] = g[0] / (1.f + expf(-g[0])) * g[width];
}

// ---- the token ----------------------------------------------------------------------------------------------------------------
// Greedy choice and hash of the logits of each wanted column: 4 bytes a token of the vocabulary, read once. The lowest id wins a
// tie; NaN never wins. The hash is that of src/engine/mod.rs: a wrapping sum over the tokens, the same in any order.
// logits: [slot][vocab], out: [slot].
struct Choice { u64 hash; u32 token, pad; };
__device__ __forceinline__ u64 split_mix(u64 x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return x ^ x >> 31;
}
constexpr int CHOOSE_PARTS = 32, CHOOSE_THREADS = 512; // the host launches so many
struct Best { u64 sum; float most; u32 at; };
// The larger logit, of equals the lower token; sums of any order are the same.
__device__ __forceinline__ void merge(Best& a, const Best& b) {
    a.sum += b.sum;
    if (b.most > a.most || (b.most == a.most && b.at < a.at)) {
        a.most = b.most;
        a.at = b.at;
    }
}
__device__ __forceinline__ Best best_of_warp(Best a) {
#pragma unroll
    for (int o = 16; o; o >>= 1) merge(a, Best{__shfl_xor_sync(~0u, a.sum, o), __shfl_xor_sync(~0u, a.most, o), __shfl_xor_sync(~0u, a.at, o)});
    return a;
}
extern "C" __global__ void __launch_bounds__(CHOOSE_THREADS) choose(const __grid_constant__ Columns c, const float* logits, int vocab, Best* parts, u32* tickets, Choice* out) {
    __shared__ Best warps[CHOOSE_THREADS / 32];
    __shared__ bool last;
    if (!c.at[blockIdx.x].want) return;
    const int slot = c.at[blockIdx.x].slot, lane = threadIdx.x & 31, each = (vocab + CHOOSE_PARTS - 1) / CHOOSE_PARTS;
    const int first = blockIdx.y * each, end = min(vocab, first + each);
    const float* p = logits + (size_t)slot * vocab;
    Best best{0, -INFINITY, 0};
    for (int i = first + threadIdx.x; i < end; i += 8 * CHOOSE_THREADS) {
        float v[8]; // eight loads on their way
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = i + k * CHOOSE_THREADS < end ? p[i + k * CHOOSE_THREADS] : 0.f;
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const int at = i + k * CHOOSE_THREADS;
            if (at < end) merge(best, Best{split_mix((u64)at << 32 | __float_as_uint(v[k])), v[k], (u32)at});
        }
    }
    best = best_of_warp(best);
    if (lane == 0) warps[threadIdx.x >> 5] = best;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    best = best_of_warp(lane < CHOOSE_THREADS / 32 ? warps[lane] : Best{0, -INFINITY, 0});
    // Whoever comes last has all parts.
    if (lane == 0) {
        parts[slot * CHOOSE_PARTS + blockIdx.y] = best;
        __threadfence();
        last = atomicAdd(tickets + slot, 1) == CHOOSE_PARTS - 1;
        __threadfence();
    }
    __syncwarp();
    if (!last) return;
    Best all{0, -INFINITY, 0};
    if (lane < CHOOSE_PARTS) {
        const volatile Best* from = parts + slot * CHOOSE_PARTS + lane;
        all = Best{from->sum, from->most, from->at};
    }
    all = best_of_warp(all);
    if (lane == 0) {
        out[slot] = Choice{all.sum, all.at, 0};
        tickets[slot] = 0;
    }
}

// ---- the ceiling ----------------------------------------------------------------------------------------------------------------
// Reads n x 16 bytes, eight loads in flight a thread: what this chip's memory gives at best. Writes only what cannot be.
extern "C" __global__ void __launch_bounds__(512) read_all(const uint4* p, u64 n, u32* out) {
    const u64 step = (u64)gridDim.x * blockDim.x;
    u32 x = 0;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += 8 * step) {
        uint4 v[8];
#pragma unroll
        for (int k = 0; k < 8; k++) v[k] = i + k * step < n ? __ldcs(p + i + k * step) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int k = 0; k < 8; k++) x ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
    if (x == 0x12345678u) *out = x;
}
