// step.cu: one decode step of the whole model in one persistent kernel (compute capability 9.0 and later).
//
// COLUMNS. Up to 16 columns go through together; a column is one token of one stream at one position, so that a prompt is 16
// positions of one stream at a time. Column n's arithmetic never depends on the other columns nor on how many there are.
//
// WHO DOES WHAT. One CTA an SM: eight compute warps, a producer and, at one column, a follower (follow). A matrix is cut by rows over the CTAs, in row groups of 16 (gate
// and up lie interleaved, so that one CTA has both), and by k over the warps of a CTA: warp w takes super-blocks w, w + 8, .. of every
// row group. Its activations go from L2 into registers once for a BATCH of 4 row groups, and a warp's products need nothing from any
// other warp. The eight partial sums of a row group meet in shared memory and are added in the order of the warps; with 8 columns and
// fewer that happens while the next batch is multiplied.
//
// WEIGHTS. Tiles (tiles.cuh) in the order [row group][super-block]. The producer warp walks through all matrices of the step and keeps
// a ring of bulk copies full, across norms, attention and barriers: weights depend on nothing. A stage is 8 tiles, consecutive
// super-blocks of one row group, as four copies of two tiles with an mbarrier each. At most `window` copies are on their way: more
// only lengthens the queues that everything else waits in.
// With 8 columns and fewer L2 is told to forget them first (with 16 that loses a little, and why is not known).
//
// RMSNorm: who makes h writes f16(h gain) and the CTA's sums of squares; the consumer multiplies its result by 1/rms. The residual
// stream stays in the shared memory of the CTA that owns its rows. How activations travel: exchange.cuh; how a warp has them at hand: activations.cuh.
//
// CACHE. f16. Keys [layer][slot][kv head][position][128]; values [layer][slot][kv head][position / 32][128][32 positions].
//
// REGISTERS. Twelve warps: three warpgroups, of which two compute with 224 registers a thread and one, the producer's, gives its own away
// (setmaxnreg, capability 9.0 alone). A spilled register costs a way to L2, behind the weights: kernels/NOTES.md.
//
// BYTES a call: all weights once, the cached keys and values of every column once; everything else stays in the L2 cache.
// Every sum has a fixed order, there are no float atomics, and the grid size is part of the order.
#include "activations.cuh"
#include "attention.cuh"
#include "tiles.cuh"

constexpr int OWN_MAX = 16; // row groups of the residual stream that one CTA can own
constexpr int THREADS = COMPUTE + 128; // whole warpgroups, which can trade registers

// ---- shared memory ------------------------------------------------------------------------------------------------------------
struct Span { int supers, first, last; };             // this CTA's row groups first..last
struct Common {
    Span span[5];
    float inverse_rms[COLUMNS];
    float squares[OWN_MAX][COLUMNS];
    float gains[2][OWN_MAX * 16];                     // of the norms after OUT and after DOWN
    u32 share;                                        // 65536 / columns, rounded up: what divides by the number of columns
    uint4 none[9 * 4];                                // zero: the activations of columns that are not there, where one is
    u32 held[32 + 4];                                 // lane numbers; depth, stage_bytes, zero, thousand (step)
    u64 done[2];                                      // mbarriers: all warps' partial sums of a batch are there; at 16 columns: the batch before has been added up
};
// Common | residual [own row groups][columns][16] | table of parts | partial sums | activations, by warp | barriers | ring.
// The host computes the same offsets: src/engine/cuda/persistent.rs.
struct Memory { u32 residual, parts, red, ahead, full, empty, ring; };
template <int NC> __device__ __forceinline__ Memory lay_out(const Step& p, int own_groups) {
    Memory m;
    m.residual = (sizeof(Common) + 127) & ~127;
    m.parts = m.residual + own_groups * Config<NC>::N * 64;
    m.red = (m.parts + (6 * p.layers + 1) * sizeof(Part) + 127) & ~127;
    m.ahead = m.red + Config<NC>::BUFFERS * Config<NC>::RED * 4;
    m.full = m.ahead + WARPS * p.ahead;
    m.empty = m.full + p.depth * 32;
    m.ring = (m.empty + p.depth * 8 + 127) & ~127;
    return m;
}

// ---- the ring of weights --------------------------------------------------------------------------------------------------------
struct Ring {
    u32 full, empty, data;
    int depth, stage_bytes; // in registers, as `zero` is: a parameter would be loaded again for every tile
    u32 zero;               // zero, which the compiler does not know
    u32 thousand;           // four bytes of 0x64 for splat_byte: as a constant it would take the immediate, and every selector a register
    int slot, phase;
    __device__ __forceinline__ void next() {
        if (++slot == depth) {
            slot = 0;
            phase ^= 1;
        }
    }
};
__device__ __forceinline__ int tile_bytes(u32 type) { return type == Q8_0 ? 4352 : 16 * block_bytes(type); }
__device__ __forceinline__ int first_part(int kind, int layer, int layers) { return kind == HEAD ? 6 * layers : 6 * layer + (kind == QKV ? 0 : 2 + kind); }

// The batch that starts at row group `first`: which part it lies in, its first row group there, and how many it takes.
struct Batch { int part, group, rows; };
template <int NC> __device__ __forceinline__ Batch batch_at(const Shape& s, int first, int last) {
    Batch b{0, first, 0};
#pragma unroll
    for (int k = 0; k < 2; k++)
        if (b.part == k && b.group >= s.groups[k] && s.groups[k + 1] > 0) {
            b.group -= s.groups[k];
            b.part = k + 1;
        }
    b.rows = min(min(Config<NC>::ROWS, last - first), (b.part == 0 ? s.groups[0] : b.part == 1 ? s.groups[1] : s.groups[2]) - b.group);
    return b;
}
// One lane, through all matrices of the step in the order in which the warps take them.
template <int NC> __device__ __forceinline__ void produce(const Step& p, const Common* c, const Part* parts, Ring r) {
    int sent = 0, waiting = 0, waiting_phase = 0;
    const int end = p.depth * 4, total = 4 * p.layers + (p.head ? 1 : 0);
#pragma unroll 1
    for (int m = 0; m < total; m++) {
        const int layer = m >> 2, kind = layer == p.layers ? HEAD : m & 3;
        const Span s = c->span[kind];
        Batch b;
#pragma unroll 1
        for (int at = s.first; at < s.last; at += b.rows) {
            b = batch_at<NC>(p.shape[kind], at, s.last);
            const Part part = parts[first_part(kind, layer, p.layers) + b.part];
            const u32 bytes = tile_bytes(part.type);
            const u8* from = p.tiles + (u64)part.at * 16 + (u64)b.group * s.supers * bytes;
#pragma unroll 1
            for (int super = 0; super < s.supers; super += WARPS)
#pragma unroll 1
                for (int row = 0; row < b.rows; row++) {
                    bar_wait(r.empty + r.slot * 8, r.phase ^ 1);
                    const u8* source = from + (u64)(row * s.supers + super) * bytes;
                    for (int q = 0; q < 4; q++) {
                        if (sent >= p.window) {
                            bar_wait(r.full + waiting * 8, waiting_phase);
                            if (++waiting == end) {
                                waiting = 0;
                                waiting_phase ^= 1;
                            }
                        } else
                            sent++;
                        const int tiles = min(2, s.supers - super - 2 * q); // the last stage of a row may be short
                        if (tiles > 0) bulk_copy<(NC <= 8)>(r.data + r.slot * r.stage_bytes + 2 * q * bytes, r.full + r.slot * 32 + q * 8, source + 2 * q * bytes, tiles * bytes);
                        else bar_arrive(r.full + r.slot * 32 + q * 8);
                    }
                    r.next();
                }
        }
    }
}

// One column: a lane that follows the ring, and with every stage of DOWN and QKV asks for a piece of the keys and values of the attention
// that comes next. So they arrive beside the weights; all at once, they would stand in front of them.
__device__ __forceinline__ void follow(const Step& p, const Common* c, Ring r) {
    int item = blockIdx.x;
    const int total = 4 * p.layers + (p.head ? 1 : 0);
#pragma unroll 1
    for (int m = 0; m < total; m++) {
        const int kind = m >> 2 == p.layers ? HEAD : m & 3, layer = (m >> 2) + (kind == DOWN ? 1 : 0);
        const Span s = c->span[kind];
        const bool fetches = p.prefetch && (kind == DOWN || kind == QKV) && layer < p.layers;
        if (kind == DOWN) item = blockIdx.x;
        const int stages = (s.last - s.first) * ((s.supers + WARPS - 1) / WARPS);
#pragma unroll 1
        for (int i = 0; i < stages; i++) {
            bar_wait(r.full + r.slot * 32, r.phase);
            bar_arrive(r.empty + r.slot * 8); // counted like those who compute, so that the ring cannot overtake it
            r.next();
            if (fetches) {
                fetch(p, layer, item);
                item += gridDim.x;
            }
        }
    }
}

// ---- products -------------------------------------------------------------------------------------------------------------------
// Takes a tile's fragments; b: this super-block's activations.
template <int T, int NT> struct Sink {
    float c[Tile<T>::CHAINS][NT][4] = {}, least[NT][4] = {};
    const uint4 (&b)[9][NT];
    const u32 thousand;
    __device__ __forceinline__ Sink(const uint4 (&b_)[9][NT], u32 thousand_) : b(b_), thousand(thousand_) {}
    template <int C, int M> __device__ __forceinline__ void mma(u32 a0, u32 a1, u32 a2, u32 a3) {
#pragma unroll
        for (int n = 0; n < NT; n++) ::mma(c[C][n], a0, a1, a2, a3, M & 1 ? b[M >> 1][n].z : b[M >> 1][n].x, M & 1 ? b[M >> 1][n].w : b[M >> 1][n].y);
    }
    template <int H> __device__ __forceinline__ void minimum(u32 a0, u32 a1, u32 a2, u32 a3) {
#pragma unroll
        for (int n = 0; n < NT; n++) ::mma(least[n], a0, a1, a2, a3, H ? b[8][n].z : b[8][n].x, H ? b[8][n].w : b[8][n].y);
    }
    template <int H> __device__ __forceinline__ void minimum(u32 a0, u32 a1) { // two sums of 16 under one minimum
#pragma unroll
        for (int n = 0; n < NT; n++) {
            ::mma8(least[n], a0, a1, H ? b[8][n].z : b[8][n].x);
            ::mma8(least[n], a0, a1, H ? b[8][n].w : b[8][n].y);
        }
    }
    __device__ __forceinline__ void finish(const float (&d)[2], const float (&m)[2], float (&sum)[NT][4]) {
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float v = c[0][n][e];
#pragma unroll
                for (int k = 1; k < Tile<T>::CHAINS; k++) v = fmaf(c[k][n][e], Tile<T>::chain(k), v);
                sum[n][e] = fmaf(d[e >> 1], v, sum[n][e]);
                if (Tile<T>::MINIMA) sum[n][e] = fmaf(-m[e >> 1], least[n][e], sum[n][e]);
            }
    }
};

// ---- a tile ---------------------------------------------------------------------------------------------------------------------
// The next stage's tile of this warp.
// A stage may be given back only when its loads have returned (issued is not enough: the copy engine overtakes them); a zero that
// depends on every load makes the arrival wait for them. Every lane arrives for its own loads: one lane for its warp would need
// __syncwarp(), which costs more than the arrivals do, and which compute-sanitizer's racecheck cannot follow.
template <int T> __device__ __forceinline__ void take(const Step& p, Ring& r, Tile<T>& tile, int warp, int lane) {
    bar_wait(r.full + r.slot * 32 + (warp >> 1) * 8, r.phase);
    tile.load(r.data + r.slot * r.stage_bytes + warp * Tile<T>::BYTES, lane);
    const u32 done = r.empty + r.slot * 8 + (tile.touched() & r.zero);
    bar_arrive(done);
    r.next();
}
// What a batch needs to know, and the norm's loads that are on their way meanwhile.
struct Job {
    int rows;
    bool more;             // another batch of this operation follows
    const float* squares;  // sums to fetch during the last round, or null
};
template <int T, int NC> __device__ __forceinline__ void multiply(const Step& p, const Job& job, Ring& r, Ahead<NC>& x,
                                                                  float (&sum)[Config<NC>::ROWS][Config<NC>::TILES][4], u32 (&early)[Config<NC>::SQUARES][5]) {
    constexpr int NT = Config<NC>::TILES, ROWS = Config<NC>::ROWS;
    const int warp = x.warp, lane = x.lane;
#pragma unroll 1
    for (int super = warp; super < x.supers + warp; super += WARPS) {
        const bool last = super + WARPS >= x.supers + warp;
        if (job.squares && last) {
#pragma unroll
            for (int k = 0; k < Config<NC>::SQUARES; k++) {
                const float* from = job.squares + (min(warp + k * WARPS, p.columns.count - 1) * GRID_MAX + lane);
#pragma unroll
                for (int i = 0; i < 5; i++) early[k][i] = lane + 32 * i < gridDim.x ? poll1(from + 32 * i) : 0;
            }
        }
        if (super >= x.supers) { // a short last stage: nothing here for this warp, but it is given back by all
            for (int k = 0; k < job.rows; k++) {
                bar_wait(r.full + r.slot * 32 + (warp >> 1) * 8, r.phase);
                bar_arrive(r.empty + r.slot * 8);
                r.next();
            }
            break;
        }
        uint4 b[9][NT];
        x.get(b, super);
        // The next batch begins where this one did; a warp without a tile in the last stage asks for that a round early.
        const int next = super + WARPS < x.supers ? super + WARPS : job.more ? warp : -1;
        Tile<T> tile;
        take<T>(p, r, tile, warp, lane);
        x.settle(b, super); // while the tile is on its way
        if (next >= 0) x.want(next);
#pragma unroll
        for (int k = 0; k < ROWS; k++)
            if (k < job.rows) {
                // The next tile is on its way while this one is finished, where there are registers enough.
                constexpr bool EARLY = NC <= 8;
                Sink<T, NT> sink(b, r.thousand);
                float d[2], m[2];
                if (!EARLY && k > 0) take<T>(p, r, tile, warp, lane);
                tile.run(sink);
                tile.scales(d, m);
                if (EARLY && k + 1 < ROWS && k + 1 < job.rows) take<T>(p, r, tile, warp, lane);
                sink.finish(d, m, sum[k]);
            }
    }
}

// ---- endings --------------------------------------------------------------------------------------------------------------------
// Where finished rows go. `i`: row of 16 (lane & 15), n: column, on: this thread has a result.
template <int NC> struct Finish {
    static constexpr int N = Config<NC>::N;
    const Step& p;
    Common* c;
    float* residual; // in shared memory
    int kind, layer, own_first;
    // Sum of the eight warps' partial sums of row i of row group r, column n, in order.
    __device__ __forceinline__ float total(const float* red, int r, int i, int n) const {
        float v = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) v += red[((w * Config<NC>::ROWS + r) * 16 + i) * Config<NC>::STRIDE + n];
        return v;
    }
    __device__ __forceinline__ void add(float v, Out out, int group, int i, int n, bool on) const {
        const int own = group - own_first;
        float* h = residual + (own * N + n) * 16 + i;
        if (on) v += *h;
        const float square = sum16(on ? v * v : 0.f);
        if (on) {
            *h = v;
            if (i == 0) c->squares[own][n] = square;
        }
        publish<NC>(out, n, group * 16 + i, v * c->gains[kind == DOWN][own * 16 + i], on);
    }
    __device__ __forceinline__ void head(float v, int group, int i, int n, bool on) const {
        const int row = group * 16 + i;
        if (on && row < p.vocab && p.columns.at[n].want) p.logits[(size_t)p.columns.at[n].slot * p.vocab + row] = v * c->inverse_rms[n];
    }
    // RoPE on neighbouring rows; q scaled for exp2; k and v into the cache.
    __device__ __forceinline__ void q_k_v(float v, int part, int group, int i, int n, bool on) const {
        const int row = group * 16 + i, d = row & (HEAD_DIM - 1);
        v *= c->inverse_rms[n];
        const float o = __shfl_xor_sync(~0u, v, 1);
        if (!on) return;
        const Column col = p.columns.at[n];
        const float2 cs = p.rope[(size_t)col.position * (HEAD_DIM / 2) + (d >> 1)];
        const float x = d & 1 ? o * cs.y + v * cs.x : v * cs.x - o * cs.y;
        if (part == 0) {
            p.q[(size_t)n * p.heads * HEAD_DIM + row] = __float2half_rn(x * (0.08838834764831845f * 1.4426950408889634f)); // 1/sqrt(128), log2 e
            return;
        }
        const size_t cache = (((size_t)layer * p.slots + col.slot) * p.kv_heads + row / HEAD_DIM) * p.context * HEAD_DIM;
        if (part == 1) p.keys[cache + (size_t)col.position * HEAD_DIM + d] = __float2half_rn(x);
        else p.values[cache + (size_t)(col.position >> 5) * 32 * HEAD_DIM + d * 32 + (col.position & 31)] = __float2half_rn(v);
    }
    // A batch whose partial sums are in `red`. A half warp takes row group and column (for gate and up: a pair of row groups).
    __device__ __forceinline__ void run(const float* red, Batch b) const {
        const int i = threadIdx.x & 15, count = p.columns.count, share = c->share, rows = kind == GATE_UP ? b.rows / 2 : b.rows;
        const int q = turn(kind == DOWN ? p.turn_a : p.turn_b, kind == DOWN ? layer + 1 : layer), to = kind == GATE_UP ? 3 : kind == OUT ? 2 : 0;
        const Out out{p.x[to][q], p.x[to][q == 2 ? 0 : q + 1]};
#pragma unroll 1
        for (int at = (threadIdx.x >> 5) * 2; at < rows * count; at += COMPUTE / 16) {
            const int item = at + ((threadIdx.x >> 4) & 1), r0 = item * share >> 16; // item / count, without its way through floats
            const bool on = r0 < rows;
            const int r = on ? r0 : 0, n = on ? item - r0 * count : 0;
            if (kind == GATE_UP) {
                const float a = total(red, 2 * r, i, n) * c->inverse_rms[n], u = total(red, 2 * r + 1, i, n) * c->inverse_rms[n];
                publish<NC>(out, n, (b.group / 2 + r) * 16 + i, a / (1.f + __expf(-a)) * u, on);
                continue;
            }
            const float v = total(red, r, i, n);
            if (kind == HEAD) head(v, b.group + r, i, n, on);
            else if (kind == QKV) q_k_v(v, b.part, b.group + r, i, n, on);
            else add(v, out, b.group + r, i, n, on);
        }
    }
};
// 1/rms of the columns that this warp has, from all CTAs' sums of squares in a fixed order.
template <int NC> __device__ __forceinline__ void norm(const Step& p, Common* c, const float* squares, const u32 (&early)[Config<NC>::SQUARES][5], int warp, int lane) {
#pragma unroll
    for (int k = 0; k < Config<NC>::SQUARES; k++) {
        const int n = warp + k * WARPS;
        if (n >= p.columns.count) break;
        float s = 0;
#pragma unroll
        for (int i = 0; i < 5; i++) {
            u32 v = early[k][i];
            for (int tries = 0; v == EMPTY; tries++) {
                if (tries > PATIENCE) __trap();
                v = poll1(squares + n * GRID_MAX + lane + 32 * i);
            }
            s += __uint_as_float(v);
        }
#pragma unroll
        for (int o = 16; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
        if (lane == 0) c->inverse_rms[n] = rsqrtf(s / p.width + p.epsilon);
    }
}
// The sums of squares of this CTA's rows, once they are all in shared memory; EMPTY where the next layer's will be.
__device__ __forceinline__ void put_squares(const Step& p, const Common* c, float* const* squares, int q, int own) {
    const int n = threadIdx.x;
    if (n >= p.columns.count) return;
    float v = 0;
    for (int r = 0; r < own; r++) v += c->squares[r][n];
    squares[q][n * GRID_MAX + blockIdx.x] = v;
    squares[(q + 1) % 3][n * GRID_MAX + blockIdx.x] = __uint_as_float(EMPTY);
}

// ---- one operation --------------------------------------------------------------------------------------------------------------
template <int NC> __device__ __forceinline__ void store_sums(float* red, const float (&sum)[Config<NC>::ROWS][Config<NC>::TILES][4], int rows, int warp, int lane) {
    constexpr int STRIDE = Config<NC>::STRIDE;
#pragma unroll
    for (int k = 0; k < Config<NC>::ROWS; k++)
        if (k < rows && (NC > 1 || (lane & 3) == 0))
#pragma unroll
            for (int n = 0; n < Config<NC>::TILES; n++) {
                float* to = red + ((warp * Config<NC>::ROWS + k) * 16 + (lane >> 2)) * STRIDE + n * 8 + (lane & 3) * 2;
                *(float2*)to = make_float2(sum[k][n][0], sum[k][n][1]);
                *(float2*)(to + 8 * STRIDE) = make_float2(sum[k][n][2], sum[k][n][3]);
            }
}
// y = W x for all columns and its ending. `batches`: batches of this kernel so far, of which two buffers hold the sums by turns.
template <int NC> __device__ __forceinline__ void operation(const Step& p, Common* c, const Memory& m, Ring& ring, int kind, int layer, int warp, int lane, int& batches) {
    constexpr int NT = Config<NC>::TILES;
    u8* const base = (u8*)c;
    const Span s = c->span[kind];
    const bool residual = kind == OUT || kind == DOWN;
    const int a = turn(p.turn_a, layer), b = turn(p.turn_b, layer);
    const uint4* const x = kind == QKV || kind == HEAD ? p.x[0][a] : p.x[kind == OUT ? 1 : kind == GATE_UP ? 2 : 3][b];
    const float* const squares = residual ? nullptr : kind == GATE_UP ? p.squares_b[b] : p.squares_a[a];
    const Part* const parts = (const Part*)(base + m.parts) + first_part(kind, layer, p.layers);
    const Finish<NC> finish{p, c, (float*)(base + m.residual), kind, layer, s.first};
    float* const red = (float*)(base + m.red);
    const int own_rows = residual ? (s.last - s.first) * 16 : 0;
    float gain = 0; // of this CTA's rows in the next norm
    if ((int)threadIdx.x < own_rows) gain = __ldg(p.gain + (size_t)(kind == OUT ? 2 * layer + 1 : 2 * layer + 2) * p.width + s.first * 16 + threadIdx.x);
    Ahead<NC> ahead(p, x, shared_at(base) + m.ahead + warp * p.ahead, shared_at(c->none), s.supers, warp, lane);
    if (s.first < s.last) ahead.open();
    u32 early[Config<NC>::SQUARES][5] = {};
    Batch before{0, 0, 0};
#pragma unroll 1
    for (int at = s.first; at < s.last;) {
        const Batch batch = batch_at<NC>(p.shape[kind], at, s.last);
        const Job job{batch.rows, at + batch.rows < s.last, at == s.first ? squares : nullptr};
        float sum[Config<NC>::ROWS][NT][4] = {};
        switch (parts[batch.part].type) {
            case Q2_K: multiply<Q2_K, NC>(p, job, ring, ahead, sum, early); break;
            case Q3_K: multiply<Q3_K, NC>(p, job, ring, ahead, sum, early); break;
            case Q4_K: multiply<Q4_K, NC>(p, job, ring, ahead, sum, early); break;
            case Q5_K: multiply<Q5_K, NC>(p, job, ring, ahead, sum, early); break;
            case Q6_K: multiply<Q6_K, NC>(p, job, ring, ahead, sum, early); break;
            default: multiply<Q8_0, NC>(p, job, ring, ahead, sum, early); break;
        }
        if (at == s.first) { // seen by everybody with the sums
            if (squares) norm<NC>(p, c, squares, early, warp, lane);
            if ((int)threadIdx.x < own_rows) c->gains[kind == DOWN][threadIdx.x] = gain;
        }
        if (NC <= 8) {
            if (before.rows) {
                bar_wait(shared_at(&c->done[(batches - 1) & 1]), ((batches - 1) >> 1) & 1);
                finish.run(red + ((batches - 1) & 1) * Config<NC>::RED, before);
            }
            store_sums<NC>(red + (batches & 1) * Config<NC>::RED, sum, batch.rows, warp, lane);
            bar_arrive(shared_at(&c->done[batches & 1]));
            batches++;
            before = batch;
        } else {
            if (batches) bar_wait(shared_at(&c->done[0]), (batches - 1) & 1); // the last batch's sums have been read
            store_sums<NC>(red, sum, batch.rows, warp, lane);
            bar_sync<COMPUTE>();
            finish.run(red, batch);
            bar_arrive(shared_at(&c->done[0]));
            batches++;
        }
        at += batch.rows;
    }
    if (NC <= 8 && before.rows) {
        bar_wait(shared_at(&c->done[(batches - 1) & 1]), ((batches - 1) >> 1) & 1);
        finish.run(red + ((batches - 1) & 1) * Config<NC>::RED, before);
    }
    if (residual) {
        bar_sync<COMPUTE>();
        if (kind == OUT) put_squares(p, c, p.squares_b, b, s.last - s.first);
        else put_squares(p, c, p.squares_a, turn(p.turn_a, layer + 1), s.last - s.first);
    }
}

// Weight `row` of the embedding of column n's token.
struct OneWeight {
    const u8* row; int k; float w;
    template <int T> __device__ __forceinline__ void run() {
        float eight[8];
        dequant8<T>(row, k & ~7, eight);
#pragma unroll
        for (int e = 0; e < 8; e++)
            if ((k & 7) == e) w = eight[e];
    }
};
__device__ __forceinline__ float embedding(const Step& p, int n, int row) {
    OneWeight one{p.table + (size_t)p.columns.at[n].token * p.row_bytes, row, 0.f};
    with_type(p.table_type, one);
    return one.w;
}
// The residual stream of this CTA's rows from the embedding, its squares, and the first norm's input.
template <int NC> __device__ __forceinline__ void embed(const Step& p, Common* c, float* residual) {
    constexpr int N = Config<NC>::N;
    const Span s = c->span[OUT];
    const int a = turn(p.turn_a, 0), i = threadIdx.x & 15;
    const Out out{p.x[0][a], p.x[0][(a + 1) % 3]};
#pragma unroll 1
    for (int at = (threadIdx.x >> 5) * 2; at < (s.last - s.first) * N; at += COMPUTE / 16) {
        const int item = at + ((threadIdx.x >> 4) & 1), n0 = item % N, own0 = item / N;
        const bool on = n0 < p.columns.count && own0 < s.last - s.first;
        const int n = on ? n0 : 0, own = on ? own0 : 0, row = (s.first + own) * 16 + i;
        const float v = embedding(p, n, row), square = sum16(v * v);
        if (on) {
            residual[(own * N + n) * 16 + i] = v;
            if (i == 0) c->squares[own][n] = square;
        }
        publish<NC>(out, n, row, v * p.gain[row], on);
    }
    bar_sync<COMPUTE>();
    put_squares(p, c, p.squares_a, a, s.last - s.first);
}

// ---- the step -------------------------------------------------------------------------------------------------------------------
template <int NC> __device__ __forceinline__ void step(const Step& p, u8* shared) {
    Common* const c = (Common*)shared;
    const int warp = __shfl_sync(~0u, (int)threadIdx.x >> 5, 0);
    const int out_groups = p.shape[OUT].groups[0];
    const Memory m = lay_out<NC>(p, (out_groups + gridDim.x - 1) / gridDim.x);
    if (threadIdx.x < 5) {
        const Shape s = p.shape[threadIdx.x];
        const u32 unit = threadIdx.x == GATE_UP ? 2 : 1, units = (s.groups[0] + s.groups[1] + s.groups[2]) / unit;
        c->span[threadIdx.x] = Span{s.supers, (int)(units * blockIdx.x / gridDim.x * unit), (int)(units * (blockIdx.x + 1) / gridDim.x * unit)};
    }
    // By way of shared memory, or ptxas would fetch them for every tile anew, the lane from a special register, which is slow.
    if (threadIdx.x < 9 * 4) c->none[threadIdx.x] = make_uint4(0, 0, 0, 0);
    if (threadIdx.x < 32) c->held[threadIdx.x] = threadIdx.x;
    if (threadIdx.x == 32) c->share = (65535 + p.columns.count) / p.columns.count;
    if (threadIdx.x == 32) c->held[32] = p.depth;
    if (threadIdx.x == 33) c->held[33] = p.stage_bytes;
    if (threadIdx.x == 34) c->held[34] = p.zero;
    if (threadIdx.x == 35) c->held[35] = 0x64646464u;
    Part* const parts = (Part*)(shared + m.parts);
    for (int i = threadIdx.x; i < 6 * p.layers + 1; i += blockDim.x) parts[i] = p.parts[i];
    const u32 at = shared_at(shared);
    Ring ring{at + m.full, at + m.empty, at + m.ring, 0, 0, 0, 0, 0, 0};
    if (threadIdx.x == 0) {
        for (int i = 0; i < 4 * p.depth; i++) bar_init(ring.full + i * 8, 1);
        for (int i = 0; i < p.depth; i++) bar_init(ring.empty + i * 8, COMPUTE + (NC == 1 ? 1 : 0));
        for (int i = 0; i < 2; i++) bar_init(shared_at(&c->done[i]), COMPUTE);
        bar_init_done();
    }
    __syncthreads();
    const u32 held = shared_at(c->held);
    const int lane = lds_held(held + (threadIdx.x & 31) * 4);
    ring.depth = lds_held(held + 32 * 4);
    ring.stage_bytes = lds_held(held + 33 * 4);
    ring.zero = lds_held(held + 34 * 4);
    ring.thousand = lds_held(held + 35 * 4);
    if (warp >= WARPS) {
        fewer_registers<56>();
        if (warp == WARPS && elect()) produce<NC>(p, c, parts, ring);
        if (NC == 1 && warp == WARPS + 1 && elect()) follow(p, c, ring);
        return;
    }
    more_registers<224>();
    u32 target = p.barrier_base;
    int batches = 0;
    Ahead<NC>(p, nullptr, at + m.ahead + warp * p.ahead, 0, 0, warp, lane).clear();
    embed<NC>(p, c, (float*)(shared + m.residual));
#pragma unroll 1
    for (int op = 0; op < 4 * p.layers + (p.head ? 1 : 0); op++) {
        const int layer = op >> 2, kind = layer == p.layers ? HEAD : op & 3;
        __syncwarp();
        operation<NC>(p, c, m, ring, kind, layer, warp, lane, batches);
        if (kind == QKV) {
            grid_barrier<COMPUTE>(p.barrier, target);
            attend(p, layer, warp, lane);
            combine<NC>(p, layer, warp, lane);
        }
    }
}
template <int NC> __device__ __forceinline__ void enter(const Step& p) {
    extern __shared__ __align__(128) u8 shared[];
    step<NC>(p, shared);
}
extern "C" __global__ void __launch_bounds__(THREADS, 1) step1(const __grid_constant__ Step p) { enter<1>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, 1) step8(const __grid_constant__ Step p) { enter<8>(p); }
extern "C" __global__ void __launch_bounds__(THREADS, 1) step16(const __grid_constant__ Step p) { enter<16>(p); }
// The host checks that both sides agree on this.
extern "C" __global__ void step_layout(u32* out) {
    out[0] = sizeof(Step);
    out[1] = sizeof(Common);
    out[2] = Config<1>::BUFFERS * Config<1>::RED * 4;
    out[3] = Config<8>::BUFFERS * Config<8>::RED * 4;
    out[4] = Config<16>::BUFFERS * Config<16>::RED * 4;
    out[5] = THREADS;
}
