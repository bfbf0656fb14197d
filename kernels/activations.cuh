// activations.cuh: what a kernel of the persistent step is made for (Config), and how a warp has its activations at hand (Ahead).
#pragma once
#include "exchange.cuh"

template <int NC> struct Config {
    static constexpr int TILES = (NC + 7) / 8, N = stored(NC);       // n-tiles of the mma; columns stored
    static constexpr int STRIDE = NC == 1 ? 2 : N + 2;               // floats between rows of a partial sum: no bank conflicts
    static constexpr int ROWS = 4;                                   // row groups of a batch
    static constexpr int BUFFERS = NC > 8 ? 1 : 2;                   // batches whose partial sums are in shared memory
    static constexpr int RED = WARPS * ROWS * 16 * STRIDE;           // floats of one of them
    static constexpr int SQUARES = (N + WARPS - 1) / WARPS;          // columns whose norm one warp works out
};

// How a warp has its activations at hand when it wants them:
//   8 columns: the next super-block is on its way into registers while this one is multiplied;
//   16 columns: so it is, but into shared memory, by cp.async, for registers have no room for two;
//   one column: so it is, too, for it needs little of either and saves the copies between registers.
// One column could have all of an operation in shared memory; that is a sixth less instructions, and slower: the ring is shorter by it
// (kernels/NOTES.md).
template <int NC> struct Ahead {
    static constexpr int NT = Config<NC>::TILES, PLANES = 4 * Config<NC>::N;
    static constexpr bool STAGED = NC != 8;
    const uint4* x; // this lane's first piece
    u32 at;         // its place in shared memory
    int supers, columns, warp, lane;
    uint4 next[STAGED ? 1 : 9][NT];

    // `at_`: what this warp has in shared memory; `none`: where one column's other lanes find zeros.
    __device__ __forceinline__ Ahead(const Step& p, const uint4* x_, u32 at_, u32 none, int supers_, int warp_, int lane_)
        : x(x_ + lane_), at(NC == 1 ? (lane_ < 4 ? at_ : none) + (lane_ & 3) * 16 : at_ + lane_ * 16), supers(supers_), columns(p.columns.count), warp(warp_), lane(lane_) {}
    __device__ __forceinline__ bool on(int n) const { return NC > 8 && n == 0 || n * 8 + (lane >> 2) < columns; }
    // One address and constant offsets: 18 addresses would take 36 registers.
    __device__ __forceinline__ const uint4* source(int super) const { return x + super * (9 * PLANES); }
    __device__ __forceinline__ u32 place(int k, int n) const { return at + (NC == 1 ? k * 64 : (k * NT + n) * 512); }

    __device__ __forceinline__ void load(uint4 (&b)[9][NT], int super) const {
        const uint4* from = source(super);
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int k = 0; k < 9; k++) {
                b[k][n] = make_uint4(0, 0, 0, 0);
                if (on(n)) b[k][n] = poll4(from + (k * PLANES + n * 32));
            }
    }
    // Until everything has come. A plane of products is stored and polled 16 bytes at once (publish, poll4), so that one word tells; of what
    // cp.async brought at 16 columns PTX does not promise that, the chip's 32-byte sectors do. The sums are stored word by word. Sums are stored last and cover all of a super-block: to wait for them alone asks a ninth of L2.
    __device__ __forceinline__ void settle(uint4 (&b)[9][NT], int super) {
        const uint4* sums = source(super) + 8 * PLANES;
        for (int tries = 0;; tries++) {
            bool waiting = false;
#pragma unroll
            for (int n = 0; n < NT; n++) {
#pragma unroll
                for (int k = 0; k < 8; k++) waiting |= b[k][n].x == EMPTY;
                waiting |= empty(b[8][n]);
            }
            if (!__any_sync(~0u, waiting)) return;
            uint4 s[NT];
            do {
                if (tries++ > PATIENCE) __trap();
                waiting = false;
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    s[n] = on(n) ? poll4(sums + n * 32) : make_uint4(0, 0, 0, 0);
                    waiting |= empty(s[n]);
                }
            } while (__any_sync(~0u, waiting));
            if constexpr (STAGED) { // by the way that all of it came: one place where registers are filled
                want(super);
                get(b, super);
            } else load(b, super);
        }
    }
    // The super-block that will be wanted next.
    __device__ __forceinline__ void want(int super) {
        if constexpr (!STAGED) load(next, super);
        else {
            const uint4* from = source(super);
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int k = 0; k < 9; k++)
                    if (on(n)) copy_async(place(k, n), from + (k * PLANES + n * 32));
        }
    }
    __device__ __forceinline__ void open() {
        if (warp < supers) want(warp);
    }
    __device__ __forceinline__ void get(uint4 (&b)[9][NT], int super) {
        if constexpr (STAGED) copies_wait();
#pragma unroll
        for (int k = 0; k < 9; k++)
#pragma unroll
            for (int n = 0; n < NT; n++) {
                if constexpr (!STAGED) b[k][n] = next[k][n];
                else b[k][n] = lds4(place(k, n));
            }
    }
    // Columns that are not there are zero in shared memory, from the step's start.
    __device__ __forceinline__ void clear() const {
        if constexpr (NC == 16)
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int k = 0; k < 9; k++) sts4(place(k, n), make_uint4(0, 0, 0, 0));
    }
};
