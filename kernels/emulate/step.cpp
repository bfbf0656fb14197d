// step.cpp: kernels/step.cu on a CPU, against float64: one fiber a CUDA thread, warps in step where their instructions are collective,
// bulk copies late and out of order, shared memory and stages poisoned. A wrong index, a hang, a divergent warp, a barrier with too
// many arrivals, a misaligned copy or different bits in other company end it. It knows nothing of memory order: that is the device's.
//
//     step LAYERS WIDTH FEED_FORWARD HEADS KV_HEADS VOCAB CTAS TYPE [RING_MAX [SEED]]     TYPE: GGUF's number, -1 for another in every one
#include "machine.h"
#include "pack.cu"

struct Mat {
    int type, rows, cols;
    std::vector<u8> raw;
    std::vector<double> w;
};
static double frand() { return rnd() % 100001 / 50000.0 - 1; }
static Mat make(int type, int rows, int cols) {
    Mat m{type, rows, cols, {}, {}};
    int bb = block_bytes(type), bw = block_weights(type);
    size_t n = (size_t)rows * cols / bw;
    m.raw.resize(n * bb);
    for (auto &x : m.raw)
        x = (u8)rnd();
    float z = 1.f / sqrtf(cols) / 0.0128f * (0.7f + 0.3f * (float)fabs(frand()));
    auto put = [&](u8 *p, float f) {
        __half h = __float2half_rn(f);
        memcpy(p, &h, 2);
    };
    for (size_t i = 0; i < n; i++) {
        u8 *b = &m.raw[i * bb];
        float u = z * (0.75f + rnd() % 1000 / 2000.f);
        if (type == Q4_K)
            put(b, 4e-5f * u), put(b + 2, 3e-4f * u);
        if (type == Q5_K)
            put(b, 2e-5f * u), put(b + 2, 3.1e-4f * u);
        if (type == Q6_K)
            put(b + 208, 1e-5f * u);
        if (type == Q2_K)
            put(b + 80, 8e-4f * u), put(b + 82, 1.2e-3f * u);
        if (type == Q3_K)
            put(b + 108, 1.6e-4f * u);
        if (type == Q8_0)
            put(b, 1.7e-4f * u);
    }
    m.w.resize((size_t)rows * cols);
    size_t rb = (size_t)cols / bw * bb;
    for (int r = 0; r < rows; r++)
        for (int k = 0; k < cols; k += 8) {
            float w[8];
            const u8 *row = &m.raw[r * rb];
            switch (type) {
            case Q2_K:
                dequant8<Q2_K>(row, k, w);
                break;
            case Q3_K:
                dequant8<Q3_K>(row, k, w);
                break;
            case Q4_K:
                dequant8<Q4_K>(row, k, w);
                break;
            case Q5_K:
                dequant8<Q5_K>(row, k, w);
                break;
            case Q6_K:
                dequant8<Q6_K>(row, k, w);
                break;
            default:
                dequant8<Q8_0>(row, k, w);
            }
            for (int e = 0; e < 8; e++)
                m.w[(size_t)r * cols + k + e] = w[e];
        }
    return m;
}
static std::vector<double> mul(const Mat &m, const std::vector<double> &x) {
    std::vector<double> y(m.rows);
    for (int r = 0; r < m.rows; r++) {
        double s = 0;
        for (int k = 0; k < m.cols; k++)
            s += m.w[(size_t)r * m.cols + k] * x[k];
        y[r] = s;
    }
    return y;
}
int main(int ac, char **av) {
    setvbuf(stdout, 0, _IOLBF, 0);
    int layers = atoi(av[1]), width = atoi(av[2]), ff = atoi(av[3]), heads = atoi(av[4]), kvh = atoi(av[5]), vocab = atoi(av[6]),
        grid = atoi(av[7]), type0 = atoi(av[8]);
    int cap = ac > 9 ? atoi(av[9]) : 32;
    if (ac > 10)
        rng += atoll(av[10]) * 7919;
    const int TY[6] = {Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_0};
    auto ty = [&]() { return type0 >= 0 ? type0 : TY[rnd() % 6]; };
    int D = width, HW = heads * 128, KW = kvh * 128, slots = 16, context = 64;
    std::vector<Mat> ms;
    std::vector<std::vector<float>> gains;
    for (int L = 0; L < layers; L++) {
        ms.push_back(make(ty(), HW, D));
        ms.push_back(make(ty(), KW, D));
        ms.push_back(make(ty(), KW, D));
        ms.push_back(make(ty(), D, HW));
        int g = ty();
        ms.push_back(make(g, ff, D));
        ms.push_back(make(g, ff, D));
        ms.push_back(make(ty(), D, ff));
    }
    ms.push_back(make(ty(), vocab, D));
    std::vector<float> gain((2 * layers + 1) * D);
    for (auto &g : gain)
        g = 1 + 0.3f * frand();
    std::vector<Part> parts;
    std::vector<u8> tiles(64 << 20);
    size_t at = 0;
    int stage = 0;
    auto tb = [](int t) { return t == Q8_0 ? 4352 : 16 * block_bytes(t); };
    u8 *tbase = (u8 *)(((uintptr_t)tiles.data() + 127) & ~(uintptr_t)127);
    auto place = [&](std::vector<Mat *> v) {
        Mat *m = v[0];
        int stride = v.size(), supers = m->cols / 256, groups = (m->rows + 15) / 16;
        parts.push_back({(u32)(at / 16), (u32)m->type});
        stage = std::max(stage, 8 * tb(m->type));
        for (int o = 0; o < stride; o++) {
            blockDim = {128, 1, 1};
            for (size_t b = 0; b < ((size_t)groups * supers + 3) / 4; b++)
                for (int t = 0; t < 128; t++) {
                    blockIdx.x = b;
                    threadIdx.x = t;
                    pack(m->type, v[o]->raw.data(), m->rows, supers, groups, stride, o, tbase + at);
                }
        }
        at += (size_t)groups * stride * supers * tb(m->type);
        if (at > (63u << 20)) {
            printf("too large\n");
            exit(1);
        }
    };
    for (int L = 0; L < layers; L++) {
        Mat *b = &ms[7 * L];
        place({b});
        place({b + 1});
        place({b + 2});
        place({b + 3});
        place({b + 4, b + 5});
        place({b + 6});
    }
    place({&ms.back()});
    tiles_begin = tbase;
    tiles_end = tbase + at;
    auto gr = [](int r) { return (r + 15) / 16; };
    Step p{};
    p.tiles = tbase;
    p.parts = parts.data();
    p.shape[0] = {D / 256, {gr(HW), gr(KW), gr(KW)}};
    p.shape[1] = {HW / 256, {gr(D), 0, 0}};
    p.shape[2] = {D / 256, {2 * gr(ff), 0, 0}};
    p.shape[3] = {ff / 256, {gr(D), 0, 0}};
    p.shape[4] = {D / 256, {gr(vocab), 0, 0}};
    p.layers = layers;
    p.width = D;
    p.heads = heads;
    p.kv_heads = kvh;
    p.vocab = vocab;
    p.slots = slots;
    p.context = context;
    p.group = heads / kvh;
    p.stage_bytes = stage;
    p.window = 8;
    p.prefetch = 1;
    p.epsilon = 1e-5f;
    int xs[4] = {D, HW, D, ff};
    std::vector<uint4> xb[4][3];
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 3; j++)
            xb[i][j].resize(xs[i] / 256 * 9 * 16 * 4);
    std::vector<float> sq[6];
    for (auto &s : sq)
        s.resize(16 * GRID_MAX);
    std::vector<float> h0(16 * D), part((size_t)16 * 2 * heads * 128), logits((size_t)slots * vocab);
    std::vector<float2> pm(16 * 2 * heads), rope(context * 64);
    std::vector<__half> q(16 * HW), keys((size_t)layers * slots * context * KW), values(keys.size());
    u32 barrier[32] = {};
    for (int pos = 0; pos < context; pos++)
        for (int i = 0; i < 64; i++) {
            double a = pos * pow(10000.0, -2.0 * i / 128);
            rope[pos * 64 + i] = {(float)cos(a), (float)sin(a)};
        }
    p.h0 = h0.data();
    p.gain = gain.data();
    p.rope = rope.data();
    p.q = q.data();
    p.keys = keys.data();
    p.values = values.data();
    p.part = part.data();
    p.part_max = pm.data();
    p.logits = logits.data();
    p.barrier = barrier;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 3; j++)
            p.x[i][j] = xb[i][j].data();
    for (int j = 0; j < 3; j++) {
        p.squares_a[j] = sq[j].data();
        p.squares_b[j] = sq[3 + j].data();
    }
    std::vector<std::vector<float>> table(97, std::vector<float>(D));
    for (auto &r : table)
        for (auto &v : r)
            v = frand();
    struct Ref {
        std::vector<std::vector<std::vector<double>>> k, v;
    };
    std::vector<Ref> refs(slots);
    for (auto &r : refs) {
        r.k.resize(layers);
        r.v.resize(layers);
    }
    auto reference = [&](int slot, int token, int pos) {
        std::vector<double> h(table[token].begin(), table[token].end());
        auto norm = [&](int g) {
            double s = 0;
            for (double x : h)
                s += x * x;
            s = 1 / sqrt(s / D + 1e-5);
            std::vector<double> x(D);
            for (int i = 0; i < D; i++)
                x[i] = h[i] * s * gain[g * D + i];
            return x;
        };
        for (int L = 0; L < layers; L++) {
            Mat *b = &ms[7 * L];
            auto x = norm(2 * L);
            auto Q = mul(b[0], x), K = mul(b[1], x), V = mul(b[2], x);
            auto rot = [&](std::vector<double> &v) {
                for (size_t i = 0; i < v.size(); i += 2) {
                    float2 cs = rope[pos * 64 + (i % 128) / 2];
                    double a = v[i], c = v[i + 1];
                    v[i] = a * cs.x - c * cs.y;
                    v[i + 1] = a * cs.y + c * cs.x;
                }
            };
            rot(Q);
            rot(K);
            auto &R = refs[slot];
            R.k[L].resize(pos);
            R.v[L].resize(pos);
            R.k[L].push_back(K);
            R.v[L].push_back(V);
            std::vector<double> o(HW);
            for (int hd = 0; hd < heads; hd++) {
                int kv = hd / (heads / kvh);
                std::vector<double> s;
                double mx = -1e30, sum = 0;
                for (auto &k : R.k[L]) {
                    double d = 0;
                    for (int i = 0; i < 128; i++)
                        d += Q[hd * 128 + i] * k[kv * 128 + i];
                    s.push_back(d / sqrt(128.0));
                    mx = std::max(mx, s.back());
                }
                for (auto &e : s) {
                    e = exp(e - mx);
                    sum += e;
                }
                for (size_t j = 0; j < s.size(); j++)
                    for (int i = 0; i < 128; i++)
                        o[hd * 128 + i] += s[j] / sum * R.v[L][j][kv * 128 + i];
            }
            auto y = mul(b[3], o);
            for (int i = 0; i < D; i++)
                h[i] += y[i];
            x = norm(2 * L + 1);
            auto g = mul(b[4], x), u = mul(b[5], x);
            for (int i = 0; i < ff; i++)
                g[i] = g[i] / (1 + exp(-g[i])) * u[i];
            y = mul(b[6], g);
            for (int i = 0; i < D; i++)
                h[i] += y[i];
        }
        return mul(ms.back(), norm(2 * layers));
    };
    int last_nc = 0, last_count = 0;
    double worst = 0;
    std::vector<std::vector<float>> bits(slots);
    std::vector<int> pos(slots, 0);
    std::vector<std::vector<int>> hist(slots);
    auto pass = [&](std::vector<std::array<int, 3>> cols) { // slot, token, want
        int count = cols.size(), nc = count == 1 ? 1 : count <= 8 ? 8 : 16;
        p.columns.count = count;
        int most = 1;
        bool head = false;
        for (int n = 0; n < count; n++) {
            int s = cols[n][0];
            p.columns.at[n] = {cols[n][1], s, pos[s], cols[n][2]};
            most = std::max(most, pos[s] / 32 + 1);
            head |= cols[n][2];
            pos[s]++;
            memcpy(&h0[n * D], table[cols[n][1]].data(), D * 4);
        }
        p.head = head;
        p.chunks = most;
        if (nc != last_nc || count != last_count) {
            for (auto &a : xb)
                for (auto &b : a)
                    memset(b.data(), 255, b.size() * 16);
            for (auto &s : sq)
                memset(s.data(), 255, s.size() * 4);
            p.turn_a = p.turn_b = 0;
            last_nc = nc;
            last_count = count;
        }
        int own = (gr(D) + grid - 1) / grid, N = stored(nc);
        size_t before = ((sizeof(Common) + 127) & ~127) + own * N * 64;
        before = (before + (6 * layers + 1) * 8 + 127) & ~127;
        before += nc == 1 ? 2 * Config<1>::RED * 4 : nc == 8 ? 2 * Config<8>::RED * 4 : Config<16>::RED * 4;
        int depth = std::min(cap, (int)((SHARED - before - 128) / (stage + 40)));
        p.depth = depth;
        if (depth < 2) {
            printf("depth %d\n", depth);
            exit(1);
        }
        launch(p, nc, grid, nc == 16 ? 384 : 288);
        p.turn_a = (p.turn_a + layers + 1) % 3;
        p.turn_b = (p.turn_b + layers) % 3;
        p.barrier_base += 2 * layers * grid;
        return depth;
    };
    auto compare = [&](int s, const char *what) {
        auto &hs = hist[s];
        refs[s] = Ref{};
        refs[s].k.resize(layers);
        refs[s].v.resize(layers);
        std::vector<double> r;
        for (size_t i = 0; i < hs.size(); i++)
            r = reference(s, hs[i], i);
        double a = 0, b = 0;
        for (int v = 0; v < vocab; v++) {
            double d = logits[(size_t)s * vocab + v] - r[v];
            a += d * d;
            b += r[v] * r[v];
        }
        double e = sqrt(a / b);
        worst = std::max(worst, e == e ? e : 1e9);
        printf("  %s slot %d len %zu err %.2e\n", what, s, hs.size(), e);
    };
    auto feed = [&](std::vector<std::array<int, 3>> c) {
        for (auto &x : c)
            hist[x[0]].push_back(x[1]);
        return pass(c);
    };
    std::fill(logits.begin(), logits.end(), NAN);
    int d = feed({{3, 5, 1}});
    compare(3, "one");
    std::vector<float> l1(&logits[3 * (size_t)vocab], &logits[3 * (size_t)vocab] + vocab);
    printf("depth %d\n", d);
    feed({{3, 8, 1}});
    compare(3, "one again");
    std::vector<float> l2(&logits[3 * (size_t)vocab], &logits[3 * (size_t)vocab] + vocab);
    // same two tokens in a slot among 5, then among 12
    auto reset = [&](int s) {
        pos[s] = 0;
        hist[s].clear();
    };
    auto same = [&](int s, std::vector<float> &l, const char *w) {
        size_t n = 0;
        for (int v = 0; v < vocab; v++)
            n += memcmp(&logits[(size_t)s * vocab + v], &l[v], 4) != 0;
        printf("  %s: %zu of %d differ\n", w, n, vocab);
        if (n)
            worst = 1e9;
    };
    d = feed({{0, 1, 1}, {1, 2, 0}, {5, 5, 1}, {2, 7, 1}, {4, 9, 1}});
    same(5, l1, "in five");
    printf("depth %d\n", d);
    compare(4, "five");
    feed({{0, 1, 1}, {5, 8, 1}, {1, 2, 1}, {2, 7, 1}, {4, 9, 1}});
    same(5, l2, "in five again");
    compare(0, "five again");
    {
        std::vector<std::array<int, 3>> c;
        reset(5);
        for (int s = 0; s < 12; s++)
            c.push_back({s, s == 5 ? 5 : 10 + s, 1});
        d = feed(c);
        same(5, l1, "in twelve");
        printf("depth %d\n", d);
        compare(11, "twelve");
        for (auto &x : c)
            if (x[0] == 5)
                x[1] = 8;
        feed(c);
        same(5, l2, "in twelve again");
        compare(2, "twelve again");
        feed(c);
        compare(7, "twelve thrice");
    }
    {
        reset(9);
        for (int r = 0; r < 3; r++) {
            std::vector<std::array<int, 3>> c;
            for (int i = 0; i < 16; i++)
                c.push_back({9, (r * 16 + i) % 90, r == 2 && i == 15});
            feed(c);
        }
        compare(9, "prompt of 48");
        feed({{9, 4, 1}});
        compare(9, "after it");
    }
    printf("worst %.2e %s\n", worst, worst < 2e-3 ? "OK" : "BAD");
    return worst < 2e-3 ? 0 : 1;
}
