// machine.h: fibers, warps, barriers and the copy engine of step.cpp; includes nothing of the kernels but runs their step<NC>().
#pragma once
#include "step.cu"
#include <array>
#include <ucontext.h>
D3 threadIdx, blockIdx, gridDim, blockDim;
u8 *shared_base;
constexpr int SHARED = 232448;
struct Warp {
    int arrived = 0, op = 0;
    uint32_t gen = 0;
    Slot in[32], out[32];
};
struct Block {
    std::vector<u8> shared;
    int at[2] = {0, 0};
    uint32_t gen[2] = {0, 0};
    std::vector<Warp> warps;
};
struct Fiber {
    ucontext_t ctx;
    std::vector<char> stack;
    unsigned block, thread;
    bool done = false;
};
static std::vector<Block> blocks;
static std::vector<Fiber> fibers;
static ucontext_t main_ctx;
static Fiber *cur;
static void resume(Fiber &f) {
    cur = &f;
    threadIdx.x = f.thread;
    blockIdx.x = f.block;
    shared_base = blocks[f.block].shared.data();
    swapcontext(&main_ctx, &f.ctx);
}
void yield() {
    Fiber *me = cur;
    swapcontext(&me->ctx, &main_ctx);
}
#define DIE(...)                                                                                                                           \
    do {                                                                                                                                   \
        printf(__VA_ARGS__);                                                                                                               \
        printf("  block %u thread %u\n", blockIdx.x, threadIdx.x);                                                                         \
        fflush(stdout);                                                                                                                    \
        abort();                                                                                                                           \
    } while (0)
void check_shared(u32 a, int bytes) {
    if (a % bytes || a + bytes > SHARED)
        DIE("bad shared access at %u, %d bytes", a, bytes);
}
Slot &collective(int op, const Slot &in) {
    Warp &w = blocks[cur->block].warps[cur->thread / 32];
    int lane = cur->thread & 31;
    if (w.arrived && w.op != op)
        DIE("divergent warp: op %d, others in %d", op, w.op);
    w.op = op;
    w.in[lane] = in;
    w.arrived++;
    uint32_t g = w.gen;
    if (w.arrived < 32) {
        while (w.gen == g)
            yield();
        return w.out[lane];
    }
    bool any = false;
    for (auto &s : w.in)
        any |= s.u[0] != 0;
    auto hv = [](u32 b, int i) { return (double)__half2float(__ushort_as_half((u16)(b >> 16 * i))); };
    static double A[16][16], B[16][8];
    if (op == OP_MMA)
        for (int l = 0; l < 32; l++) {
            int G = l >> 2, t = l & 3;
            for (int i = 0; i < 2; i++) {
                A[G][2 * t + i] = hv(w.in[l].u[0], i);
                A[G + 8][2 * t + i] = hv(w.in[l].u[1], i);
                A[G][2 * t + 8 + i] = hv(w.in[l].u[2], i);
                A[G + 8][2 * t + 8 + i] = hv(w.in[l].u[3], i);
                B[2 * t + i][G] = hv(w.in[l].u[4], i);
                B[2 * t + 8 + i][G] = hv(w.in[l].u[5], i);
            }
        }
    for (int l = 0; l < 32; l++) {
        Slot &o = w.out[l];
        const Slot &s = w.in[l];
        if (op == OP_ANY)
            o.u[5] = any;
        if (op == OP_XOR)
            o.u[5] = w.in[l ^ s.u[1]].u[0];
        if (op == OP_DOWN)
            o.u[5] = w.in[l + s.u[1] < 32 ? l + s.u[1] : l].u[0];
        if (op == OP_IDX)
            o.u[5] = w.in[(l & ~(s.u[2] - 1)) + s.u[1]].u[0];
        if (op == OP_MMA) {
            int G = l >> 2, t = l & 3;
            for (int e = 0; e < 4; e++) {
                double v = s.f[e];
                for (int k = 0; k < 16; k++)
                    v += A[G + 8 * (e >> 1)][k] * B[k][2 * t + (e & 1)];
                o.f[e] = (float)v;
            }
        }
    }
    w.arrived = 0;
    w.gen++;
    return w.out[lane];
}
void named_sync(int which, int threads) {
    Block &b = blocks[cur->block];
    uint32_t g = b.gen[which];
    if (++b.at[which] == threads) {
        b.at[which] = 0;
        b.gen[which]++;
        return;
    }
    while (b.gen[which] == g)
        yield();
}
struct Bar {
    int32_t tx;
    int16_t pending;
    uint8_t count, phase;
};
static Bar &bar(u32 a) {
    check_shared(a, 8);
    return *(Bar *)(shared_base + a);
}
static void settle_bar(Bar &b) {
    if (b.pending < 0)
        DIE("more arrivals than the barrier's count");
    if (b.pending == 0 && b.tx == 0) {
        b.phase ^= 1;
        b.pending = b.count;
    }
}
void bar_init(u32 a, int n) { bar(a) = Bar{0, (int16_t)n, (uint8_t)n, 0}; }
bool bar_try(u32 a, u32 phase) {
    if (bar(a).phase != phase)
        return true;
    yield();
    return false;
}
void bar_arrive(u32 a) {
    Bar &b = bar(a);
    b.pending--;
    settle_bar(b);
}
struct Copy {
    unsigned block;
    u32 to, bar;
    const u8 *from;
    u32 bytes;
    int delay;
};
static std::vector<Copy> copies;
static uint64_t rng = 12345;
static uint32_t rnd() {
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)(rng >> 20);
}
static const u8 *tiles_begin, *tiles_end;
void bulk_copy(u32 to, u32 b, const u8 *from, u32 bytes) {
    if (to % 16 || (uintptr_t)from % 16 || bytes % 16 || to + bytes > SHARED)
        DIE("bad bulk copy to %u, %u bytes", to, bytes);
    if (from < tiles_begin || from + bytes > tiles_end)
        DIE("bulk copy outside the weights");
    Bar &x = bar(b);
    x.tx += bytes;
    x.pending--;
    settle_bar(x);
    copies.push_back({blockIdx.x, to, b, from, bytes, (int)(rnd() % 12)});
}
static void engine() {
    for (size_t i = 0; i < copies.size();) {
        Copy &c = copies[i];
        if (c.delay-- > 0) {
            i++;
            continue;
        }
        shared_base = blocks[c.block].shared.data();
        memcpy(shared_base + c.to, c.from, c.bytes);
        Bar &b = bar(c.bar);
        b.tx -= c.bytes;
        settle_bar(b);
        copies[i] = copies.back();
        copies.pop_back();
    }
}
static const Step *the_step;
static int the_nc;
static void entry() {
    u8 *sh = shared_base;
    if (the_nc == 1)
        step<1>(*the_step, sh);
    else if (the_nc == 8)
        step<8>(*the_step, sh);
    else
        step<16>(*the_step, sh);
    cur->done = true;
    for (;;)
        yield();
}
static void launch(const Step &p, int nc, int grid, int threads) {
    the_step = &p;
    the_nc = nc;
    gridDim = {(unsigned)grid, 1, 1};
    blockDim = {(unsigned)threads, 1, 1};
    blocks.assign(grid, Block{});
    for (auto &b : blocks) {
        b.shared.resize(SHARED);
        for (auto &x : b.shared)
            x = (u8)rnd();
        b.warps.resize(threads / 32);
    }
    if (fibers.size() < (size_t)grid * 384)
        fibers.resize(grid * 384);
    size_t n = (size_t)grid * threads, i = 0;
    for (int b = 0; b < grid; b++)
        for (int t = 0; t < threads; t++, i++) {
            Fiber &f = fibers[i];
            if (f.stack.empty())
                f.stack.resize(96 << 10);
            f.block = b;
            f.thread = t;
            f.done = false;
            getcontext(&f.ctx);
            f.ctx.uc_stack.ss_sp = f.stack.data();
            f.ctx.uc_stack.ss_size = f.stack.size();
            f.ctx.uc_link = nullptr;
            makecontext(&f.ctx, entry, 0);
        }
    std::vector<size_t> order(n);
    for (size_t k = 0; k < n; k++)
        order[k] = k;
    size_t left = n;
    long rounds = 0;
    while (left) {
        left = 0;
        engine();
        for (size_t k : order)
            if (!fibers[k].done) {
                left++;
                if (rnd() % 8)
                    resume(fibers[k]);
            }
        if (++rounds > 4000000)
            DIE("hang: %zu fibers left", left);
    }
    if (!copies.empty())
        DIE("copies still under way at the end");
}
