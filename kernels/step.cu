// step.cu: one decode step of the whole model in one persistent kernel (compute capability 9.0 and later).
//
// COLUMNS. Up to 16 columns go through together; a column is one token of one stream at one position, so that a prompt is 16
// positions of one stream at a time. Column n's arithmetic never depends on the other columns nor on how many there are.
//
// WHO DOES WHAT. One CTA an SM, eight CTAs a cluster. A matrix is cut by rows over the clusters, in row blocks of 128 rows
// (tiles.cuh), and by k over the eight CTAs of a cluster: each holds only its eighth of the activations, in shared memory. A warp
// takes one row group (16 rows) of a row block; the eight partial sums of a row group meet in the shared memory of one CTA of the
// cluster, are added in the order of the CTAs, and that CTA finishes those rows. 16 compute warps in two teams of 8 take two row
// blocks at a time (one a team; a last odd row block is shared, each team every second super-block).
//
// WEIGHTS. A producer warp walks through all matrices of the step and keeps a ring of bulk copies full, across norms, attention and
// barriers: weights depend on nothing. A stage is 8 tiles (one super-block of a row block), contiguous, as four copies of two tiles
// with an mbarrier each. At most `window` copies are on their way: more only lengthens the queues that everything else waits in.
//
// ACTIVATIONS. f16, in fragment order: [super-block][9][column][4 lanes] of 16 bytes; plane 8 holds the sums of 16 columns (high and
// low halves) that minima multiply. They travel between CTAs without barriers: the reader polls the data itself until nothing reads
// as EMPTY (all ones, a NaN that no conversion gives). Three buffers take turns; who writes a place in one empties the same place in
// the next, and the two grid barriers of every layer order that emptying before the following use. RMSNorm: who makes h writes
// f16(h gain) and the CTA's sums of squares; the consumer multiplies its result by 1/rms. The residual stream stays in the shared
// memory of the CTA that owns its rows.
//
// CACHE. f16. Keys [layer][slot][kv head][position][128]; values [layer][slot][kv head][position / 32][128][32 positions].
//
// BYTES a call: all weights once, the cached keys and values of every column once; everything else stays in the L2 cache.
// Every sum has a fixed order, there are no float atomics, and the grid size is part of the order.
#include "tiles.cuh"

constexpr int CLUSTER = 8, TEAM = 8, TEAMS = 2, WARPS = TEAM * TEAMS, COMPUTE = WARPS * 32, THREADS = COMPUTE + 32, HEAD_DIM = 128, COLUMNS = 16, BUFFERS = 3;
constexpr u32 EMPTY = 0xffffffffu;
constexpr int PATIENCE = 1 << 26; // polls before a wait becomes a trap, some seconds: a fault that ends the worker beats a hang

struct Column { int token, slot, position, want; };
struct Columns { int count; Column at[COLUMNS]; };
enum Kind { QKV, OUT, GATE_UP, DOWN, HEAD };
struct Part { u32 at, type; };                // tiles start at 16 x at bytes from Step::tiles
struct Shape { int supers, blocks[3]; };      // super-blocks a row; row blocks of the parts (q, k, v; else one part)
struct Step {
    Columns columns;
    const u8* tiles;
    const Part* parts;                        // [layer][q, k, v, out, gate and up, down], then the head
    Shape shape[5];
    int layers, width, heads, kv_heads, vocab, slots, context, chunks, group; // chunks: most 32-position chunks of a column; group: heads a kv head
    int depth, stage_bytes, window, head, prefetch, zero;
    float epsilon;
    int turn_a, turn_b;                       // which of three buffers layer 0 uses: turn_a for the inputs of QKV and HEAD, turn_b for the others
    u32 barrier_base;
    uint4* x[4][3];                           // inputs of QKV, OUT, GATE_UP, DOWN
    float *squares_a[3], *squares_b[3];       // [column][width / 16]: sums of squares of the residual stream, by row group
    const float *h0, *gain;                   // [column][width]; [2 layers + 1][width]
    const float2* rope;                       // [position][64]
    __half *q, *keys, *values;
    float* part;                              // attention: [item][group][128]
    float2* part_max;                         // (maximum, sum)
    float* logits;                            // [slot][vocab]
    u32* barrier;
};

// ---- waiting ----------------------------------------------------------------------------------------------------------------
__device__ __forceinline__ void bar_wait(u32 b, u32 phase) {
    for (int i = 0; !bar_try(b, phase); i++)
        if (i > PATIENCE) __trap();
}
// Stores to another CTA's shared memory that count themselves on an mbarrier there.
__device__ __forceinline__ void send1(u32 to, u32 bar, float a) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(to), "f"(a), "r"(bar) : "memory");
}
__device__ __forceinline__ void send2(u32 to, u32 bar, float a, float b) {
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1,%2}, [%3];" ::"r"(to), "f"(a), "f"(b), "r"(bar) : "memory");
}
__device__ __forceinline__ void expect(u32 bar, u32 bytes) { // arrives, and lets the phase wait for so many bytes
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ u32 in_cta(u32 a, int rank) { u32 r; asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(rank)); return r; }
__device__ __forceinline__ void compute_sync() { asm volatile("bar.sync 1, %0;" ::"n"(COMPUTE) : "memory"); }
__device__ __forceinline__ bool empty(uint4 v) { return v.x == EMPTY || v.y == EMPTY || v.z == EMPTY || v.w == EMPTY; }

__device__ __forceinline__ float sum16(float v) { // over the 16 lanes of a half warp
#pragma unroll
    for (int o = 1; o < 16; o <<= 1) v += __shfl_xor_sync(~0u, v, o);
    return v;
}
// ---- one tile times NC columns -------------------------------------------------------------------------------------------------
template <int NC> struct Config {
    static constexpr int TILES = (NC + 7) / 8, N = NC == 1 ? 1 : TILES * 8; // n-tiles of the mma; columns stored
    static constexpr int STRIDE = NC == 1 ? 1 : N + 2;                      // floats between rows of a partial sum: no bank conflicts
    static constexpr int REGION = CLUSTER * 16 * STRIDE;                    // floats of the eight partial sums of one row group
};
// Takes a tile's fragments; b: this super-block's activations, [9][column][4] x 16 bytes in shared memory.
template <int T, int NC> struct Sink {
    static constexpr int NT = Config<NC>::TILES;
    float c[Tile<T>::CHAINS][NT][4] = {}, least[NT][4] = {};
    uint4 b[NT];
    const Tile<T>& tile;
    float (&sum)[NT][4];
    u32 at; // with one column the lanes of the other seven read zeros
    __device__ __forceinline__ Sink(const Tile<T>& tile_, float (&sum_)[NT][4], u32 at_) : tile(tile_), sum(sum_), at(at_) {}
    __device__ __forceinline__ void fetch(int plane) {
#pragma unroll
        for (int n = 0; n < NT; n++) b[n] = lds4(at + (plane * Config<NC>::N + n * 8) * 64);
    }
    template <int C, int M> __device__ __forceinline__ void mma(u32 a0, u32 a1, u32 a2, u32 a3) {
        if ((M & 1) == 0) fetch(M >> 1);
#pragma unroll
        for (int n = 0; n < NT; n++) ::mma(c[C][n], a0, a1, a2, a3, M & 1 ? b[n].z : b[n].x, M & 1 ? b[n].w : b[n].y);
    }
    template <int H> __device__ __forceinline__ void minimum(u32 a0, u32 a1, u32 a2, u32 a3) {
        if (H == 0) fetch(8);
#pragma unroll
        for (int n = 0; n < NT; n++) ::mma(least[n], a0, a1, a2, a3, H ? b[n].z : b[n].x, H ? b[n].w : b[n].y);
        if (H == 0) return;
        float d[2], m[2]; // the minima are whole: into the sum with them, before the registers are wanted
        tile.scales(d, m);
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 4; e += NC == 1 ? 2 : 1) sum[n][e] = fmaf(-m[e >> 1], least[n][e], sum[n][e]);
    }
    __device__ __forceinline__ void finish() {
        float d[2], m[2];
        tile.scales(d, m);
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 4; e += NC == 1 ? 2 : 1) {
                float v = c[0][n][e];
#pragma unroll
                for (int k = 1; k < Tile<T>::CHAINS; k++) v = fmaf(c[k][n][e], Tile<T>::chain(k), v);
                sum[n][e] = fmaf(d[e >> 1], v, sum[n][e]);
            }
    }
};

// ---- shared memory ----------------------------------------------------------------------------------------------------------------
struct Span { int supers, first, last, from, to; };  // this cluster's row blocks first..last; this CTA's super-blocks from..to
// What a warp remembers across its products, which need every register: spilled to local memory it would lie beyond the L1 cache,
// of which shared memory leaves 28 KB.
struct Memo { int at, kind, layer, block, before, batches, slot, phase, step, stages; u32 target; };
struct Common {
    uint4 zeros[36];                                  // the activations of a super-block of no column
    Memo memo[WARPS];
    Span span[5];
    float inverse_rms[COLUMNS];
    u64 arrived[BUFFERS];                             // mbarriers: a batch's partial sums are all here
    u64 freed[BUFFERS];                               // mbarriers: the whole cluster has used a batch's partial sums
    u32 gains, parts, x, full, empty, ring;           // Memory, as shared-memory addresses (gains, parts: byte offsets)
    u32 credit;                                       // where credits for `freed` are stored; nobody reads it
};
// Common | red, 3 buffers x 2 regions | residual [row blocks][columns][16] | gains [row blocks][16] | table of parts | activations | barriers | ring.
// The host computes the same offsets: src/engine/cuda/step.rs.
constexpr int RED = (sizeof(Common) + 127) & ~127;
template <int NC> __host__ __device__ constexpr int residual_at() { return RED + BUFFERS * 2 * Config<NC>::REGION * 4; }
struct Memory { u32 gains, parts, x, full, empty, ring; };
template <int NC> __device__ __forceinline__ Memory lay_out(const Step& p, int own_blocks, int x_supers) {
    Memory m;
    m.gains = residual_at<NC>() + own_blocks * Config<NC>::N * 64;
    m.parts = m.gains + own_blocks * 64;
    m.x = (m.parts + (6 * p.layers + 1) * sizeof(Part) + 127) & ~127;
    m.full = (m.x + x_supers * 9 * Config<NC>::N * 64 + 127) & ~127;
    m.empty = m.full + p.depth * 32;
    m.ring = (m.empty + p.depth * 8 + 127) & ~127;
    return m;
}
__device__ __forceinline__ int most_blocks(int blocks, int clusters) { return (blocks + clusters - 1) / clusters; }

// ---- the ring of weights ------------------------------------------------------------------------------------------------------------
struct Ring { // a place in it; where it lies is in Common
    int slot, phase;
    __device__ __forceinline__ void advance(int n, int depth) {
        slot += n;
        while (slot >= depth) {
            slot -= depth;
            phase ^= 1;
        }
    }
};
__device__ __forceinline__ int tile_bytes(u32 type) { return type == Q8_0 ? 4352 : 16 * block_bytes(type); }

// Which part row block `block` of an operation belongs to; `block` becomes the part's own.
__device__ __forceinline__ int part_of(const Shape& s, int& block) {
    int i = 0;
#pragma unroll
    for (int k = 0; k < 2; k++)
        if (i == k && block >= s.blocks[k] && s.blocks[k + 1] > 0) {
            block -= s.blocks[k];
            i = k + 1;
        }
    return i;
}
__device__ __forceinline__ int first_part(int kind, int layer, int layers) { return kind == HEAD ? 6 * layers : 6 * layer + (kind == QKV ? 0 : 2 + kind); }

struct Source { const u8* from; u32 quarter; }; // a row block's tiles, and the bytes of two of them
__device__ __forceinline__ Source source_of(const Step& p, const Part* parts, int kind, int base, int supers, int block) {
    const Part part = parts[base + part_of(p.shape[kind], block)];
    const u32 bytes = tile_bytes(part.type);
    return Source{p.tiles + (u64)part.at * 16 + (u64)block * supers * (8 * bytes), 2 * bytes};
}
// One lane, through all matrices of the step in the order in which the teams take them.
__device__ __forceinline__ void produce(const Step& p, const Common* c, const Part* parts) {
    Ring r{0, 0};
    const u32 full = c->full, empty = c->empty, ring = c->ring;
    int sent = 0, waiting = 0, waiting_phase = 0;
    const int end = p.depth * 4, total = 4 * p.layers + (p.head ? 1 : 0);
#pragma unroll 1
    for (int m = 0; m < total; m++) {
        const int layer = m >> 2, kind = layer == p.layers ? HEAD : m & 3, base = first_part(kind, layer, p.layers);
        const Span s = c->span[kind];
#pragma unroll 1
        for (int block = s.first; block < s.last; block += TEAMS) {
            const int teams = min(TEAMS, s.last - block);
            const Source first = source_of(p, parts, kind, base, s.supers, block);
            const Source second = teams == TEAMS ? source_of(p, parts, kind, base, s.supers, block + 1) : first;
#pragma unroll 1
            for (int super = s.from; super < s.to; super++)
#pragma unroll 1
                for (int t = 0; t < teams; t++) {
                    bar_wait(empty + r.slot * 8, r.phase ^ 1);
                    const u32 quarter = t ? second.quarter : first.quarter;
                    const u8* source = (t ? second.from : first.from) + (u64)super * (4 * quarter);
                    for (int q = 0; q < 4; q++) {
                        if (sent >= p.window) {
                            bar_wait(full + waiting * 8, waiting_phase);
                            if (++waiting == end) {
                                waiting = 0;
                                waiting_phase ^= 1;
                            }
                        } else
                            sent++;
                        bulk_copy(ring + r.slot * p.stage_bytes + q * quarter, full + r.slot * 32 + q * 8, source + q * quarter, quarter);
                    }
                    r.advance(1, p.depth);
                }
        }
    }
}

// This warp's tile of the stage, times the activations of the super-block at `x`.
// A stage may be given back only when its loads have returned (issued is not enough: the copy engine overtakes them); a zero that
// depends on every load makes the arrival wait for them.
__device__ __forceinline__ int thread_now() { int t; asm volatile("mov.u32 %0, %tid.x;" : "=r"(t)); return t; } // read again rather than kept
template <int T, int NC> __device__ __forceinline__ void take(const Step& p, const Common* c, Ring r, u32 x, float (&sum)[Config<NC>::TILES][4]) {
    Tile<T> tile;
    const int thread = thread_now(), warp = (thread >> 5) % TEAM, lane = thread & 31;
    bar_wait(c->full + r.slot * 32 + (warp >> 1) * 8, r.phase);
    tile.load(c->ring + r.slot * p.stage_bytes + warp * Tile<T>::BYTES, lane);
    const u32 done = c->empty + r.slot * 8 + (tile.touched() & p.zero);
    __syncwarp();
    if (elect()) asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(done) : "memory");
    Sink<T, NC> sink(tile, sum, NC > 1 || lane < 4 ? x + lane * 16 : shared_at(c->zeros));
    tile.run(sink);
    sink.finish();
}
// The stages of one batch that belong to this team: super-blocks first, first + step, .. of `supers`, every `stages`-th stage.
template <int T, int NC> __device__ __forceinline__ void take_all(const Step& p, const Common* c, const volatile Memo* memo, Ring r, int first, int supers, float (&sum)[Config<NC>::TILES][4]) {
    u32 x = c->x + first * 9 * Config<NC>::N * 64;
    int left = supers - first;
#pragma unroll 1
    while (left > 0) {
        take<T, NC>(p, c, r, x, sum);
        const int step = memo->step;
        left -= step;
        x += step * 9 * Config<NC>::N * 64;
        r.advance(memo->stages, p.depth);
    }
}

// ---- activations ---------------------------------------------------------------------------------------------------------------------
struct Out { uint4 *now, *next; };
struct SquaresOut {
    float *now, *next;
    __device__ __forceinline__ void put(int at, float v) const {
        now[at] = v;
        next[at] = __uint_as_float(EMPTY);
    }
};
// 16 lanes hold 16 consecutive k of one column: f16, their sum, and EMPTY in the buffer whose turn is next.
template <int NC> __device__ __forceinline__ void publish(Out o, int n, int k, float x, bool on) {
    constexpr int N = Config<NC>::N;
    const __half v = __float2half_rn(x);
    const float s = sum16(__half2float(v));
    u32 a = __half_as_ushort(v);
    a |= __shfl_down_sync(~0u, a, 1) << 16;
    const u32 b = __shfl_down_sync(~0u, a, 2), c = __shfl_down_sync(~0u, a, 4), d = __shfl_down_sync(~0u, b, 4);
    if (!on || (k & 7)) return;
    const int at = (((k >> 8) * 9 + ((k >> 3) & 7)) * N + n) * 4 + ((k >> 6) & 3);
    o.now[at] = make_uint4(a, b, c, d);
    o.next[at] = make_uint4(EMPTY, EMPTY, EMPTY, EMPTY);
    if (k & 15) return;
    const __half high = __float2half_rn(s);
    const int sum_at = ((((k >> 8) * 9 + 8) * N + n) * 4 + ((k >> 6) & 3)) * 4 + ((k >> 4) & 3);
    ((u32*)o.now)[sum_at] = __half_as_ushort(high) | (u32)__half_as_ushort(__float2half_rn(s - __half2float(high))) << 16;
    ((u32*)o.next)[sum_at] = EMPTY;
}
// This CTA's super-blocks of the activations into shared memory, as soon as they are there.
template <int NC> __device__ __forceinline__ void gather(const Step& p, const uint4* from, const volatile Span& s, u32 to) {
    constexpr int N = Config<NC>::N, BATCH = NC > 8 ? 5 : 3;
    const int first = s.from, count = (s.to - first) * 9 * N * 4;
    from += first * 9 * N * 4;
    for (int base = threadIdx.x; base < count; base += BATCH * COMPUTE) {
        uint4 v[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const int at = base + i * COMPUTE;
            v[i] = make_uint4(0, 0, 0, 0);
            if (at < count && (at >> 2) % N < p.columns.count) v[i] = poll4(from + at);
        }
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
            const int at = base + i * COMPUTE;
            if (at >= count) break;
            for (int tries = 0; empty(v[i]); tries++) {
                if (tries > PATIENCE) __trap();
                v[i] = poll4(from + at);
            }
            asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(to + at * 16), "r"(v[i].x), "r"(v[i].y), "r"(v[i].z), "r"(v[i].w) : "memory");
        }
    }
}
// 1/rms of column n, from all row groups' sums of squares in a fixed order. One warp a column.
__device__ __forceinline__ void norm(const Step& p, Common* c, const float* squares, int n, int lane) {
    const int count = p.width / 16;
    squares += (size_t)n * count;
    float s = 0;
#pragma unroll 1
    for (int first = lane; first < count; first += 128) {
        u32 v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = first + 32 * i < count ? poll1(squares + first + 32 * i) : 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            for (int tries = 0; v[i] == EMPTY; tries++) {
                if (tries > PATIENCE) __trap();
                v[i] = poll1(squares + first + 32 * i);
            }
            s += __uint_as_float(v[i]);
        }
    }
#pragma unroll
    for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
    if (lane == 0) c->inverse_rms[n] = rsqrtf(s / p.width + p.epsilon);
}

// ---- one operation -----------------------------------------------------------------------------------------------------------------
__device__ __forceinline__ int turn(int first, int layer) { return (first + layer) % 3; }
struct Place { int warp, lane, rank, layer; };

// Where finished rows go. `i`: row of 16 (lane & 15), n: column, on: this thread has a result.
template <int NC> struct Finish {
    const Step& p;
    Common* c;
    const Place& w;
    int kind, own_first;
    Out out;
    SquaresOut squares;
    // Sum of the eight CTAs' partial sums of row i, column n, in order.
    __device__ __forceinline__ float total(const float* region, int i, int n) const {
        float v = 0;
#pragma unroll
        for (int r = 0; r < CLUSTER; r++) v += region[(r * 16 + i) * Config<NC>::STRIDE + n];
        return v;
    }
    __device__ __forceinline__ void gate_up(const float* red, int block, int i, int n, bool on) const {
        const float a = total(red, i, n) * c->inverse_rms[n], u = total(red + Config<NC>::REGION, i, n) * c->inverse_rms[n];
        publish<NC>(out, n, (block * 4 + (w.rank & 3)) * 16 + i, a / (1.f + __expf(-a)) * u, on);
    }
    __device__ __forceinline__ void residual(float v, int block, int i, int n, bool on) const {
        const float gain = ((const float*)((u8*)c + c->gains))[(block - own_first) * 16 + i];
        float* h = (float*)(((u8*)c) + residual_at<NC>()) + ((block - own_first) * Config<NC>::N + n) * 16 + i;
        if (on) v += *h;
        const float square = sum16(on ? v * v : 0.f);
        if (on) {
            *h = v;
            if (i == 0) squares.put(n * (p.width / 16) + block * 8 + w.rank, square);
        }
        publish<NC>(out, n, (block * 8 + w.rank) * 16 + i, v * gain, on);
    }
    __device__ __forceinline__ void head(float v, int block, int i, int n, bool on) const {
        const int row = (block * 8 + w.rank) * 16 + i;
        if (on && row < p.vocab && p.columns.at[n].want) p.logits[(size_t)p.columns.at[n].slot * p.vocab + row] = v * c->inverse_rms[n];
    }
    // RoPE on neighbouring rows; q scaled for exp2; k and v into the cache.
    __device__ __forceinline__ void q_k_v(float v, int block, int i, int n, bool on) const {
        const int part = part_of(p.shape[QKV], block), row = (block * 8 + w.rank) * 16 + i, d = row & (HEAD_DIM - 1);
        v *= c->inverse_rms[n];
        const float o = __shfl_xor_sync(~0u, v, 1);
        if (!on || row >= (part == 0 ? p.heads : p.kv_heads) * HEAD_DIM) return;
        const Column col = p.columns.at[n];
        const float2 cs = p.rope[(size_t)col.position * (HEAD_DIM / 2) + (d >> 1)];
        const float x = d & 1 ? o * cs.y + v * cs.x : v * cs.x - o * cs.y;
        if (part == 0) {
            p.q[(size_t)n * p.heads * HEAD_DIM + row] = __float2half_rn(x * (0.08838834764831845f * 1.4426950408889634f)); // 1/sqrt(128), log2 e
            return;
        }
        const size_t cache = (((size_t)w.layer * p.slots + col.slot) * p.kv_heads + row / HEAD_DIM) * p.context * HEAD_DIM;
        if (part == 1) p.keys[cache + (size_t)col.position * HEAD_DIM + d] = __float2half_rn(x);
        else p.values[cache + (size_t)(col.position >> 5) * 32 * HEAD_DIM + d * 32 + (col.position & 31)] = __float2half_rn(v);
    }
    // The batch that starts at row block `first`, whose partial sums are in `red`.
    __device__ __forceinline__ void run(const float* red, int first, int blocks) const {
        const int team = w.warp / TEAM, i = w.lane & 15, n0 = ((w.warp % TEAM) * 2) + (w.lane >> 4);
        if ((w.warp % TEAM) * 2 >= Config<NC>::N) return;
        const bool on = n0 < p.columns.count && n0 < Config<NC>::N;
        const int n = on ? n0 : 0;
        if (kind == GATE_UP) {
            if (team == 0 && (w.rank >> 2) < blocks) gate_up(red, first + (w.rank >> 2), i, n, on);
            return;
        }
        if (team >= blocks) return;
        float v = total(red + team * Config<NC>::REGION, i, n);
        if (blocks == 1) v += total(red + Config<NC>::REGION, i, n);
        if (kind == HEAD) head(v, first + team, i, n, on);
        else if (kind == QKV) q_k_v(v, first + team, i, n, on);
        else residual(v, first + team, i, n, on);
    }
};

// y = W x for all columns and its ending. `batches`: batches of this kernel so far; three buffers for partial sums take turns. A batch's
// ending runs after the next batch's products, when its sums have long arrived.
template <int NC> __device__ __forceinline__ void operation(const Step& p, Common* c, Place& w, int kind, Ring& ring, int& batches) {
    constexpr int NT = Config<NC>::TILES;
    const volatile Span& s = c->span[kind];
    const int layer = w.layer, base = first_part(kind, layer, p.layers);
    const bool normed = kind == QKV || kind == GATE_UP || kind == HEAD, residual = kind == OUT || kind == DOWN;
    const int a = turn(p.turn_a, layer), b = turn(p.turn_b, layer);
    compute_sync(); // the last operation's products have all been taken: its activations may go
    float gain = 0; // of this CTA's rows in the next norm; on its way while the activations are
    const int own_rows = residual ? (s.last - s.first) * 16 : 0;
    const float* gains = p.gain + (size_t)(kind == OUT ? 2 * layer + 1 : 2 * layer + 2) * p.width;
    if ((int)threadIdx.x < own_rows) gain = __ldg(gains + ((s.first + (threadIdx.x >> 4)) * 8 + w.rank) * 16 + (threadIdx.x & 15));
    gather<NC>(p, kind == QKV || kind == HEAD ? p.x[0][a] : p.x[kind == OUT ? 1 : kind == GATE_UP ? 2 : 3][b], s, c->x);
    if ((int)threadIdx.x < own_rows) ((float*)((u8*)c + c->gains))[threadIdx.x] = gain;
    for (int r = COMPUTE + threadIdx.x; r < own_rows; r += COMPUTE) ((float*)((u8*)c + c->gains))[r] = gains[((s.first + (r >> 4)) * 8 + w.rank) * 16 + (r & 15)];
    if (normed && WARPS - 1 - w.warp < p.columns.count) norm(p, c, kind == GATE_UP ? p.squares_b[b] : p.squares_a[a], WARPS - 1 - w.warp, w.lane);
    compute_sync();
    const auto end_batch = [&](int batch, int first, int blocks) {
        const int buffer = batch % BUFFERS;
        bar_wait(shared_at(&c->arrived[buffer]), batch / BUFFERS & 1);
        const int q = turn(kind == DOWN ? p.turn_a : p.turn_b, kind == DOWN ? w.layer + 1 : w.layer), next = q == 2 ? 0 : q + 1, to = kind == GATE_UP ? 3 : kind == OUT ? 2 : 0;
        float* const* squares = kind == OUT ? p.squares_b : p.squares_a;
        const Finish<NC> finish{p, c, w, kind, c->span[kind].first, Out{p.x[to][q], p.x[to][next]}, SquaresOut{squares[q], squares[next]}};
        finish.run((const float*)((u8*)c + RED) + buffer * 2 * Config<NC>::REGION, first, blocks);
        __syncwarp();
        // Four bytes to every CTA: an arrival would be a release, and wait for the stores of `finish`.
        if (w.lane < CLUSTER) send1(in_cta(shared_at(&c->credit), w.lane), in_cta(shared_at(&c->freed[buffer]), w.lane), 0.f);
    };
    const Part* parts = (const Part*)((u8*)c + c->parts);
    volatile Memo* const memo = &c->memo[w.warp];
    int before = 0; // row blocks of the batch whose ending is still to come
#pragma unroll 1
    for (int block = s.first; block < s.last; block += TEAMS) {
        int blocks = min(TEAMS, s.last - block), buffer = batches % BUFFERS;
        bool shared_block = blocks == 1 && kind != GATE_UP; // the teams take every second super-block each
        const int team = w.warp / TEAM, supers = s.to - s.from;
        int own = shared_block ? block : block + team;
        float sum[NT][4] = {};
        if (team < blocks || shared_block) {
            const u32 type = parts[base + part_of(p.shape[kind], own)].type;
            Ring mine = ring;
            // Gate and up, last odd block: team 0 takes every stage. The teams otherwise take turns.
            const bool whole = blocks == 1 && !shared_block;
            if (!whole) mine.advance(team, p.depth);
            const int first = shared_block ? team : 0;
            __syncwarp(); // nobody still reads what it remembered before
            memo->step = shared_block ? TEAMS : 1;
            memo->stages = whole ? 1 : TEAMS;
            memo->kind = kind;
            memo->layer = w.layer;
            memo->block = block;
            memo->before = before;
            memo->batches = batches;
            memo->slot = ring.slot;
            memo->phase = ring.phase;
            switch (type) {
                case Q2_K: take_all<Q2_K, NC>(p, c, memo, mine, first, supers, sum); break;
                case Q3_K: take_all<Q3_K, NC>(p, c, memo, mine, first, supers, sum); break;
                case Q4_K: take_all<Q4_K, NC>(p, c, memo, mine, first, supers, sum); break;
                case Q5_K: take_all<Q5_K, NC>(p, c, memo, mine, first, supers, sum); break;
                case Q6_K: take_all<Q6_K, NC>(p, c, memo, mine, first, supers, sum); break;
                default: take_all<Q8_0, NC>(p, c, memo, mine, first, supers, sum); break;
            }
        }
        if (team < blocks || shared_block) {
            kind = memo->kind;
            w.layer = memo->layer;
            block = memo->block;
            before = memo->before;
            batches = memo->batches;
            ring = Ring{memo->slot, memo->phase};
        }
        const int thread = thread_now();
        w.warp = thread >> 5;
        w.lane = thread & 31;
        w.rank = blockIdx.x % CLUSTER;
        const int team_now = w.warp / TEAM, row_group = w.warp % TEAM;
        blocks = min(TEAMS, s.last - block);
        buffer = batches % BUFFERS;
        shared_block = blocks == 1 && kind != GATE_UP;
        ring.advance(blocks * (s.to - s.from), p.depth);
        if (batches >= BUFFERS) bar_wait(shared_at(&c->freed[buffer]), (batches / BUFFERS - 1) & 1);
        if (threadIdx.x == 0) { // what will arrive here: a row group from each CTA and region, and a credit from every warp of the cluster
            expect(shared_at(&c->freed[buffer]), CLUSTER * WARPS * 4);
            const bool tail = kind == GATE_UP && (w.rank >> 2) >= blocks; // nothing to finish here: a word from two warps of each CTA
            expect(shared_at(&c->arrived[buffer]), tail ? 2 * CLUSTER * 4 : 2 * CLUSTER * 16 * Config<NC>::N * 4);
        }
        if (team_now < blocks || shared_block) {
            const int target = kind == GATE_UP ? team_now * 4 + (row_group >> 1) : row_group, region = kind == GATE_UP ? row_group & 1 : team_now;
            const u32 bar = in_cta(shared_at(&c->arrived[buffer]), target);
            const u32 to = in_cta(shared_at(((u8*)c)) + RED + ((buffer * 2 + region) * Config<NC>::REGION + (w.rank * 16 + (w.lane >> 2)) * Config<NC>::STRIDE + (NC > 1 ? (w.lane & 3) * 2 : 0)) * 4, target);
            constexpr int DOWN8 = 8 * Config<NC>::STRIDE * 4;
#pragma unroll
            for (int n = 0; n < NT; n++) {
                if (NC > 1) {
                    send2(to + n * 32, bar, sum[n][0], sum[n][1]);
                    send2(to + n * 32 + DOWN8, bar, sum[n][2], sum[n][3]);
                } else if ((w.lane & 3) == 0) {
                    send1(to, bar, sum[n][0]);
                    send1(to + DOWN8, bar, sum[n][2]);
                }
            }
        }
        else if (w.lane == 0) { // the idle team of a last odd block: keeps the other half of the cluster from running ahead
            const int target = 4 + (row_group & 3);
            send1(in_cta(shared_at(&c->credit), target), in_cta(shared_at(&c->arrived[buffer]), target), 0.f);
        }
        if (before) end_batch(batches - 1, block - TEAMS, before);
        before = blocks;
        batches++;
    }
    if (before) end_batch(batches - 1, (s.last - 1 - s.first) / TEAMS * TEAMS + s.first, before);
}

// The residual stream of this CTA's rows from the embedding, its squares, and the first norm's input.
template <int NC> __device__ __forceinline__ void embed(const Step& p, Common* c, const Place& w) {
    const Span s = c->span[OUT];
    const int a = turn(p.turn_a, 0), i = w.lane & 15, half_warp = threadIdx.x >> 4;
    const Out out{p.x[0][a], p.x[0][(a + 1) % 3]};
    const SquaresOut squares{p.squares_a[a], p.squares_a[(a + 1) % 3]};
    for (int at = half_warp & ~1; at < (s.last - s.first) * Config<NC>::N; at += COMPUTE / 16) {
        const int item = at + (half_warp & 1), n0 = item % Config<NC>::N, block0 = s.first + item / Config<NC>::N;
        const bool on = n0 < p.columns.count && block0 < s.last;
        const int n = on ? n0 : 0, block = on ? block0 : s.first, row = (block * 8 + w.rank) * 16 + i;
        const float v = p.h0[(size_t)n * p.width + row], square = sum16(v * v);
        if (on) {
            ((float*)(((u8*)c) + residual_at<NC>()))[((block - s.first) * Config<NC>::N + n) * 16 + i] = v;
            if (i == 0) squares.put(n * (p.width / 16) + block * 8 + w.rank, square);
        }
        publish<NC>(out, n, row, v * p.gain[row], on);
    }
}

// ---- attention -----------------------------------------------------------------------------------------------------------------------
// A warp takes 32 positions of one (column, kv head), all its query heads (at most 8) as rows of the mma; partial results are combined
// after a grid barrier in the order of the positions. 16 KB of keys and values an item.
__device__ __forceinline__ u32 half2_bits(float a, float b) { const __half2 h = __floats2half2_rn(a, b); return *(const u32*)&h; }
__device__ __forceinline__ uint4 load_cg(const __half* p) { return __ldcg((const uint4*)p); }
__device__ __forceinline__ size_t cache_at(const Step& p, int layer, int n, int kv) {
    return (((size_t)layer * p.slots + p.columns.at[n].slot) * p.kv_heads + kv) * p.context * HEAD_DIM;
}
__device__ __forceinline__ void attend_item(const Step& p, const Place& w, int item, int chunk, int kv, int n) {
    const int g = w.lane >> 2, t = w.lane & 3, R = p.group, first = chunk * 32, last = p.columns.at[n].position;
    const size_t at = cache_at(p, w.layer, n, kv) + (size_t)first * HEAD_DIM;
    const __half *K = p.keys + at, *V = p.values + at;
    uint4 k[4][4], q[4];
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
    for (int half = 0; half < 2; half++) {
        uint4 v[8];
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = load_cg(V + (8 * (half * 8 + j) + g) * 32 + 8 * t);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            float o[4] = {};
            mma(o, a[0], 0, a[1], 0, v[j].x, v[j].y);
            mma(o, a[2], 0, a[3], 0, v[j].z, v[j].w);
            if (g < R) *(float2*)(out + 8 * (half * 8 + j)) = make_float2(o[0], o[1]);
        }
    }
}
__device__ __forceinline__ void attend(const Step& p, const Place& w) {
    const int items = p.columns.count * p.kv_heads * p.chunks;
    for (int item = blockIdx.x + gridDim.x * w.warp; item < items; item += gridDim.x * WARPS) {
        const int chunk = item % p.chunks, kv = item / p.chunks % p.kv_heads, n = item / p.chunks / p.kv_heads;
        if (chunk * 32 <= p.columns.at[n].position) attend_item(p, w, item, chunk, kv, n);
    }
}
template <int NC> __device__ __forceinline__ void combine(const Step& p, const Place& w) { // a half warp takes 16 dimensions of one head
    const int b = turn(p.turn_b, w.layer), i = w.lane & 15, R = p.group, total = p.columns.count * p.heads * (HEAD_DIM / 16);
    const Out out{p.x[1][b], p.x[1][(b + 1) % 3]};
    for (int at = (blockIdx.x + gridDim.x * w.warp) * 2; at < total; at += gridDim.x * WARPS * 2) {
        const int it = at + (w.lane >> 4);
        const bool on = it < total;
        const int item = on ? it : at, d = item % 8 * 16 + i, head = item / 8 % p.heads, n = item / 8 / p.heads;
        const int first = ((n * p.kv_heads + head / R) * p.chunks) * R + head % R, chunks = p.columns.at[n].position / 32 + 1;
        float most = -1e30f, num = 0, den = 0;
        // The maxima by 16 lanes at a time; then every lane its dimension, chunk after chunk.
        for (int c = i; c < chunks; c += 16) most = fmaxf(most, __ldcg(p.part_max + first + c * R).x);
#pragma unroll
        for (int o = 1; o < 16; o <<= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, o));
        const int longest = max(chunks, __shfl_xor_sync(~0u, chunks, 16));
        for (int base = 0; base < longest; base += 16) {
            float2 m = make_float2(-1e30f, 0.f);
            float v[16];
#pragma unroll
            for (int c = 0; c < 16; c++) v[c] = base + c < chunks ? __ldcg(p.part + (size_t)(first + (base + c) * R) * HEAD_DIM + d) : 0.f;
            if (base + i < chunks) m = __ldcg(p.part_max + first + (base + i) * R);
            const float e = exp2f(m.x - most), l = e * m.y;
#pragma unroll
            for (int c = 0; c < 16; c++) {
                num = fmaf(__shfl_sync(~0u, e, c, 16), v[c], num);
                den += __shfl_sync(~0u, l, c, 16);
            }
        }
        publish<NC>(out, n, head * HEAD_DIM + d, num / den, on);
    }
}
// Cached keys and values of this layer into L2, before they are wanted.
__device__ __forceinline__ void prefetch(const Step& p, const Place& w) {
    const int items = p.columns.count * p.kv_heads * p.chunks;
    if (w.lane) return;
    const int item = blockIdx.x + gridDim.x * w.warp;
    if (item >= items) return;
    const int chunk = item % p.chunks, kv = item / p.chunks % p.kv_heads, n = item / p.chunks / p.kv_heads;
    if (chunk * 32 > p.columns.at[n].position) return;
    const size_t at = cache_at(p, w.layer, n, kv) + (size_t)chunk * 32 * HEAD_DIM;
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p.keys + at), "r"(32 * HEAD_DIM * 2));
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p.values + at), "r"(32 * HEAD_DIM * 2));
}

// One counter that only grows: release on arrival, acquire on polling.
__device__ __forceinline__ void grid_barrier(u32* b, u32& target) {
    compute_sync();
    target += gridDim.x;
    if (threadIdx.x == 0) {
        asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(b) : "memory");
        for (int i = 0;; i++) {
            u32 v;
            asm volatile("ld.acquire.gpu.global.u32 %0,[%1];" : "=r"(v) : "l"(b) : "memory");
            if ((int)(v - target) >= 0) break;
            if (i > PATIENCE) __trap();
        }
    }
    compute_sync();
}

// ---- the step --------------------------------------------------------------------------------------------------------------------------
template <int NC> __device__ __forceinline__ void step(const Step& p) {
    extern __shared__ __align__(128) u8 shared[];
    Common* c = (Common*)shared;
    const int warp = __shfl_sync(~0u, threadIdx.x >> 5, 0), lane = threadIdx.x & 31, rank = blockIdx.x % CLUSTER;
    const int cluster = blockIdx.x / CLUSTER, clusters = gridDim.x / CLUSTER;
    int x_supers = 0;
#pragma unroll
    for (int k = 0; k < 5; k++) x_supers = max(x_supers, (p.shape[k].supers + CLUSTER - 1) / CLUSTER);
    const Memory m = lay_out<NC>(p, most_blocks(p.shape[OUT].blocks[0], clusters), x_supers);
    if (threadIdx.x < 36) c->zeros[threadIdx.x] = make_uint4(0, 0, 0, 0);
    if (threadIdx.x < 5) {
        const Shape s = p.shape[threadIdx.x];
        const int blocks = s.blocks[0] + s.blocks[1] + s.blocks[2];
        c->span[threadIdx.x] = Span{s.supers, blocks * cluster / clusters, blocks * (cluster + 1) / clusters, s.supers * rank / CLUSTER, s.supers * (rank + 1) / CLUSTER};
    }
    Part* parts = (Part*)(shared + m.parts);
    for (int i = threadIdx.x; i < 6 * p.layers + 1; i += blockDim.x) parts[i] = p.parts[i];
    if (threadIdx.x == 0) {
        const u32 base = shared_at(shared);
        c->gains = m.gains;
        c->parts = m.parts;
        c->x = base + m.x;
        c->full = base + m.full;
        c->empty = base + m.empty;
        c->ring = base + m.ring;
        for (int i = 0; i < 4 * p.depth; i++) bar_init(base + m.full + i * 8, 1);
        for (int i = 0; i < p.depth; i++) bar_init(base + m.empty + i * 8, TEAM);
        for (int i = 0; i < BUFFERS; i++) {
            bar_init(shared_at(&c->arrived[i]), 1);
            bar_init(shared_at(&c->freed[i]), 1);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    }
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
    if (warp == WARPS) {
        if (elect()) produce(p, c, parts);
    } else {
        Place w{warp, lane, rank, 0};
        u32 target = p.barrier_base;
        int batches = 0;
        volatile Memo* const memo = &c->memo[warp];
        Ring ring{0, 0};
        embed<NC>(p, c, w);
#pragma unroll 1
        for (int at = 0; at < 4 * p.layers + (p.head ? 1 : 0); at++) {
            w.layer = at >> 2;
            const int kind = w.layer == p.layers ? HEAD : at & 3;
            if (kind == QKV && p.prefetch) prefetch(p, w);
            __syncwarp();
            memo->at = at;
            memo->target = target;
            operation<NC>(p, c, w, kind, ring, batches);
            at = memo->at;
            target = memo->target;
            if (w.layer < p.layers && (at & 3) == QKV) {
                grid_barrier(p.barrier, target);
                attend(p, w);
                grid_barrier(p.barrier, target);
                combine<NC>(p, w);
            }
        }
        // No CTA leaves while the others may still store into its shared memory.
        for (int i = max(0, batches - BUFFERS); i < batches; i++) bar_wait(shared_at(&c->freed[i % BUFFERS]), i / BUFFERS & 1);
    }
}
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1) step1(const __grid_constant__ Step p) { step<1>(p); }
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1) step8(const __grid_constant__ Step p) { step<8>(p); }
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1) step16(const __grid_constant__ Step p) { step<16>(p); }
// The host checks that both sides agree on this.
extern "C" __global__ void step_layout(u32* out) {
    out[0] = sizeof(Step);
    out[1] = sizeof(Common);
}
