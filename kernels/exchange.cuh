// exchange.cuh: what the CTAs of the persistent step exchange: the structure that the host fills in, activations, grid barriers.
//
// ACTIVATIONS. f16, in fragment order: [super-block][9][column][4 lanes] of 16 bytes; plane 8 holds the sums of 16 columns (high and
// low halves) that minima multiply. They travel between CTAs without barriers: the reader polls the data itself until nothing reads
// as EMPTY (all ones, a NaN that no conversion gives). Three buffers take turns; who writes a place in one empties the same place in
// the next, and the grid barrier of every layer orders that emptying before the following use.
#pragma once
#include "ptx.cuh"

constexpr int WARPS = 8, COMPUTE = WARPS * 32, HEAD_DIM = 128, COLUMNS = 16, GRID_MAX = 160;
constexpr u32 EMPTY = 0xffffffffu;
constexpr int PATIENCE = 1 << 26; // polls before a wait becomes a trap: a fault that ends the worker beats a hang

struct Column { int token, slot, position, want; };
struct Columns { int count; Column at[COLUMNS]; };
enum Kind { QKV, OUT, GATE_UP, DOWN, HEAD };
struct Part { u32 at, type; };                // tiles start at 16 x at bytes from Step::tiles
struct Shape { int supers, groups[3]; };      // super-blocks a row; row groups of the parts (q, k, v; else one part)
struct Step {
    Columns columns;
    const u8* tiles;
    const Part* parts;                        // [layer][q, k, v, out, gate and up, down], then the head
    Shape shape[5];
    int layers, width, heads, kv_heads, vocab, slots, context, chunks, group; // chunks: most 32-position chunks of a column; group: heads a kv head
    int depth, stage_bytes, ahead, window, head, prefetch, zero, table_type; // ahead: bytes of shared memory that each warp has for activations
    float epsilon;
    int turn_a, turn_b;                       // which of three buffers layer 0 uses: turn_a for the inputs of QKV and HEAD, turn_b for the others
    u32 barrier_base, parts_base[COLUMNS];
    uint4* x[4][3];                           // inputs of QKV, OUT, GATE_UP, DOWN
    float *squares_a[3], *squares_b[3];       // [column][GRID_MAX]: sums of squares of the residual stream, by CTA
    const u8* table;                          // embeddings, of table_type
    u64 row_bytes;
    const float* gain;                        // [2 layers + 1][width]
    const float2* rope;                       // [position][64]
    __half *q, *keys, *values;
    float* part;                              // attention: [item][group][128]
    float2* part_max;                         // (maximum, sum)
    u32* parts_there;                         // [column][kv head]: parts so far, counted on from parts_base
    float* logits;                            // [slot][vocab]
    u32* barrier;
};


__device__ __forceinline__ void bar_wait(u32 b, u32 phase) {
    for (int i = 0; !bar_try(b, phase); i++)
        if (i > PATIENCE) __trap();
}
__device__ __forceinline__ bool empty(uint4 v) { return v.x == EMPTY || v.y == EMPTY || v.z == EMPTY || v.w == EMPTY; }
__device__ __forceinline__ int turn(int first, int layer) { return (first + layer) % 3; }
__device__ __forceinline__ float sum16(float v) { // over the 16 lanes of a half warp
#pragma unroll
    for (int o = 1; o < 16; o <<= 1) v += __shfl_xor_sync(~0u, v, o);
    return v;
}
// Columns that are stored: one, or whole eights.
__host__ __device__ constexpr int stored(int columns) { return columns == 1 ? 1 : (columns + 7) / 8 * 8; }

struct Out { uint4 *now, *next; };
// 8 activations from k on, a multiple of 8; at a multiple of 16 the sum of 16, too; and EMPTY in the buffer whose turn is next.
template <int N> __device__ __forceinline__ void put_piece(Out o, int n, int k, uint4 v, float s) {
    const int at = (((k >> 8) * 9 + ((k >> 3) & 7)) * N + n) * 4 + ((k >> 6) & 3);
    put4(o.now + at, v);
    put4(o.next + at, make_uint4(EMPTY, EMPTY, EMPTY, EMPTY));
    if (k & 15) return;
    const __half high = __float2half_rn(s);
    const int sum_at = ((((k >> 8) * 9 + 8) * N + n) * 4 + ((k >> 6) & 3)) * 4 + ((k >> 4) & 3);
    ((u32*)o.now)[sum_at] = __half_as_ushort(high) | (u32)__half_as_ushort(__float2half_rn(s - __half2float(high))) << 16;
    ((u32*)o.next)[sum_at] = EMPTY;
}
// 16 lanes hold 16 consecutive k of one column: f16, their sum, and EMPTY in the buffer whose turn is next.
template <int NC> __device__ __forceinline__ void publish(Out o, int n, int k, float x, bool on) {
    constexpr int N = stored(NC);
    const __half v = __float2half_rn(x);
    const float s = sum16(__half2float(v));
    u32 a = __half_as_ushort(v);
    a |= __shfl_down_sync(~0u, a, 1) << 16;
    const u32 b = __shfl_down_sync(~0u, a, 2), c = __shfl_down_sync(~0u, a, 4), d = __shfl_down_sync(~0u, b, 4);
    if (!on || (k & 7)) return;
    put_piece<N>(o, n, k, make_uint4(a, b, c, d), s);
}
// The same by 32 lanes that hold 4 consecutive k each.
template <int NC> __device__ __forceinline__ void publish4(Out o, int n, int k, const float (&x)[4]) {
    constexpr int N = stored(NC);
    __half v[4];
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = __float2half_rn(x[i]);
    float s = (__half2float(v[0]) + __half2float(v[1])) + (__half2float(v[2]) + __half2float(v[3]));
    s += __shfl_xor_sync(~0u, s, 1);
    s += __shfl_xor_sync(~0u, s, 2);
    const u32 a = __half_as_ushort(v[0]) | (u32)__half_as_ushort(v[1]) << 16, b = __half_as_ushort(v[2]) | (u32)__half_as_ushort(v[3]) << 16;
    const u32 c = __shfl_down_sync(~0u, a, 1), d = __shfl_down_sync(~0u, b, 1);
    if (k & 7) return;
    put_piece<N>(o, n, k, make_uint4(a, b, c, d), s);
}
// One counter that only grows: release on arrival, acquire on polling.
template <int THREADS> __device__ __forceinline__ void grid_barrier(u32* b, u32& target) {
    bar_sync<THREADS>();
    target += gridDim.x;
    if (threadIdx.x == 0) {
        add_release(b);
        for (int i = 0;; i++) {
            if ((int)(load_acquire(b) - target) >= 0) break;
            if (i > PATIENCE) __trap();
        }
    }
    bar_sync<THREADS>();
}

