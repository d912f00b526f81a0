// kernels/emu/tensor_core.cpp - matrix fragments and products: ldmatrix, stmatrix, mma, wgmma.
//
// Products are exact in float and added to the sum in order of k, each addition rounded to nearest; hardware adds
// several at a time and cuts bits off, so that the two agree to rounding only.
#include "kernels/emu/async.h"

namespace emu {
static inline float bf16_value(uint32_t bits) { return bits_as<float>(bits << 16); }

// ---- ldmatrix, stmatrix: lane 8 i + j gives row j of matrix i
struct MatrixCall { uint8_t *row; uint32_t *r; bool legal; };
template <int MATRICES, bool TRANSPOSED, bool STORE> static void matrix_work(Warp &, uint32_t lanes, void **arg) {
    uint16_t m[8][8];
    for (int i = 0; i < MATRICES; i++) {
        for (int j = 0; j < 8 && !STORE; j++) {
            const MatrixCall *c = lanes >> (8 * i + j) & 1 ? static_cast<MatrixCall *>(arg[8 * i + j]) : nullptr;
            if (c && c->legal) memcpy(m[j], c->row, 16);
            else memset(m[j], 0xFF, 16);
        }
        for (int l = 0; l < WARP; l++) {
            if (!(lanes >> l & 1)) continue;
            uint32_t &r = static_cast<MatrixCall *>(arg[l])->r[i];
            uint16_t &low = TRANSPOSED ? m[2 * (l % 4)][l / 4] : m[l / 4][2 * (l % 4)];
            uint16_t &high = TRANSPOSED ? m[2 * (l % 4) + 1][l / 4] : m[l / 4][2 * (l % 4) + 1];
            if (STORE) {
                low = (uint16_t)r;
                high = (uint16_t)(r >> 16);
            } else {
                r = (uint32_t)low | (uint32_t)high << 16;
            }
        }
        for (int j = 0; j < 8 && STORE; j++) {
            const MatrixCall *c = lanes >> (8 * i + j) & 1 ? static_cast<MatrixCall *>(arg[8 * i + j]) : nullptr;
            if (c && c->legal) memcpy(c->row, m[j], 16);
        }
    }
}

// Lanes that give no row of the matrices asked for may pass anything.
static bool matrix_row_legal(const void *row, int matrices, unsigned kind, const void *pc) {
    if (current->lane >= 8 * matrices) return true;
    if (shared_block(row) != current->block) {
        report("not-shared", pc, "a matrix row at %p is not in the block's shared memory", row);
        return false;
    }
    if ((uintptr_t)row % 16) {
        report("misaligned", pc, "a matrix row at shared address %zu, which is no multiple of 16",
               (size_t)((const uint8_t *)row - current->block->shared));
        return false;
    }
    return access(thread_access(current, row, 16, kind, pc));
}

__attribute__((noinline)) void load_matrix(uint32_t *r, int matrices, bool transposed, const void *row, Site site) {
    const void *pc = __builtin_return_address(0);
    MatrixCall c = { (uint8_t *)const_cast<void *>(row), r, matrix_row_legal(row, matrices, ACCESS_READ, pc) };
    CollectiveWork *work = matrices == 4 ? transposed ? matrix_work<4, true, false> : matrix_work<4, false, false>
                                         : transposed ? matrix_work<2, true, false> : matrix_work<2, false, false>;
    collective("ldmatrix", 0xFFFFFFFFu, site, work, &c, pc);
}

__attribute__((noinline)) void store_matrix(void *row, const uint32_t *r, bool transposed, Site site) {
    const void *pc = __builtin_return_address(0);
    MatrixCall c = { (uint8_t *)row, const_cast<uint32_t *>(r), matrix_row_legal(row, 4, ACCESS_WRITE, pc) };
    collective("stmatrix", 0xFFFFFFFFu, site, transposed ? matrix_work<4, true, true> : matrix_work<4, false, true>, &c,
               pc);
}

// ---- products
// d (16, n) += a (16, 16) b (16, n); n a multiple of 8. Eight sums at a time stay in a vector register.
static void tile_multiply(float *d, const float *a, const float *b, int n) {
    for (int c = 0; c < n; c += 8) {
        for (int r = 0; r < 16; r++) {
            float sum[8];
            for (int i = 0; i < 8; i++) sum[i] = d[r * n + c + i];
            for (int k = 0; k < 16; k++) {
                float x = a[r * 16 + k];
                for (int i = 0; i < 8; i++) sum[i] += x * b[k * n + c + i];
            }
            for (int i = 0; i < 8; i++) d[r * n + c + i] = sum[i];
        }
    }
}

// Lane l's four words of the A fragment, to a (16, 16). hopper.cuh's RS form has the same fragment.
static inline void fragment_to_tile(float *a, int l, const uint32_t *w) {
    int g = l / 4, q = l % 4;
    for (int i = 0; i < 4; i++) {
        float *pair = a + (g + i % 2 * 8) * 16 + 2 * q + i / 2 * 8;
        pair[0] = bf16_value(w[i] & 0xFFFFu);
        pair[1] = bf16_value(w[i] >> 16);
    }
}

static void mma_work(Warp &, uint32_t lanes, void **arg) {
    if (lanes != 0xFFFFFFFFu) return;                        // reported by the collective's caller
    MmaTile *t = static_cast<MmaTile *>(arg[0]);
    tile_multiply(t->d, t->a, t->b, 8);
}

// A lane that has returned takes part no more; the product is then undefined.
static void warp_is_whole(const void *pc, const char *word) {
    uint32_t live = current->block->warp[current->warp].live;
    if (live != 0xFFFFFFFFu) report("warp-not-whole", pc, "%s by a warp of which only lanes %08x are left", word, live);
}

__attribute__((noinline)) void mma_m16n8k16(float *d, const uint32_t *a, const uint32_t *b, Site site) {
    const void *pc = __builtin_return_address(0);
    WarpTiles &own = async_of(current->block).tiles[current->warp];
    int lane = current->lane, g = lane / 4, q = lane % 4;
    MmaTile &t = own.tile[own.turn[lane] ^= 1];
    warp_is_whole(pc, "mma");
    fragment_to_tile(t.a, lane, a);
    for (int i = 0; i < 2; i++) {
        t.b[(2 * q + 8 * i) * 8 + g] = bf16_value(b[i] & 0xFFFFu);
        t.b[(2 * q + 8 * i + 1) * 8 + g] = bf16_value(b[i] >> 16);
    }
    for (int i = 0; i < 4; i++) t.d[(g + i / 2 * 8) * 8 + 2 * q + i % 2] = d[i];
    collective("mma", 0xFFFFFFFFu, site, mma_work, &t, pc);
    for (int i = 0; i < 4; i++) d[i] = t.d[(g + i / 2 * 8) * 8 + 2 * q + i % 2];
}

// ---- wgmma's operands in shared memory
// As hopper.cuh's table says; the formula follows from the canonical layouts of the PTX ISA ("Strides").
struct Operand { size_t start, leading, stride; int width; bool mn_major; };
static Operand operand_of(uint64_t descriptor, bool mn_major) {
    static const int width[4] = { 0, 128, 64, 32 };
    return { (descriptor & 0x3FFF) << 4, (descriptor >> 16 & 0x3FFF) << 4, (descriptor >> 32 & 0x3FFF) << 4,
             width[descriptor >> 62], mn_major };
}
// Address of the 16 bytes that hold elements (mn, k .. k + 7), k a multiple of 8, or MN-major (mn .. mn + 7, k).
static size_t operand_chunk(const Operand &o, int mn, int k) {
    size_t i = (size_t)mn, j = (size_t)k, w = (size_t)o.width, at = o.start;
    if (o.mn_major) at += w ? i % (w / 2) * 2 + i / (w / 2) * o.leading + j % 8 * w + j / 8 * o.stride
                            : i / 8 * o.stride + j % 8 * 16 + j / 8 * o.leading;
    else            at += w ? i % 8 * w + i / 8 * o.stride + j * 2
                            : i % 8 * 16 + i / 8 * o.stride + j / 8 * o.leading;
    return swizzled(at & (SHARED_WINDOW - 1), o.width);
}
// Rows first .. first + rows - 1 of the operand: element (mn, k) to out[(mn - first) * mn_step + k * k_step].
static void operand_read(const Block *b, const Operand &o, int first, int rows, float *out, int mn_step, int k_step) {
    for (int j = 0; j < (o.mn_major ? 16 : 2); j++) {
        for (int i = 0; i < rows; i += o.mn_major ? 8 : 1) {
            int k = o.mn_major ? j : 8 * j, step = o.mn_major ? mn_step : k_step;
            uint16_t chunk[8];
            memcpy(chunk, b->shared + operand_chunk(o, first + i, k), sizeof chunk);
            for (int e = 0; e < 8; e++) out[i * mn_step + k * k_step + e * step] = bf16_value(chunk[e]);
        }
    }
}
// Calls range(offset, bytes) for every run of bytes that those rows occupy.
template <typename Range> static void operand_ranges(const Operand &o, int first, int rows, Range range) {
    static thread_local uint64_t touched[SHARED_WINDOW / 16 / 64];      // all zero between calls
    size_t low = SHARED_WINDOW / 16, high = 0;
    for (int j = 0; j < (o.mn_major ? 16 : 2); j++) {
        for (int i = 0; i < rows; i += o.mn_major ? 8 : 1) {
            size_t chunk = operand_chunk(o, first + i, o.mn_major ? j : 8 * j) / 16;
            touched[chunk / 64] |= 1ull << chunk % 64;
            low = chunk < low ? chunk : low;
            high = chunk > high ? chunk : high;
        }
    }
    for (size_t c = low; c <= high;) {
        if (!(touched[c / 64] >> c % 64 & 1)) {
            c = touched[c / 64] >> c % 64 ? c + 1 : (c / 64 + 1) * 64;
            continue;
        }
        size_t end = c;
        while (end <= high && touched[end / 64] >> end % 64 & 1) end++;
        range(c * 16, (end - c) * 16);
        c = end;
    }
    for (size_t c = low / 64; c <= high / 64; c++) touched[c] = 0;
}

// ---- wgmma: every warp of the four does its 16 rows, at its own wait
// Handed-in accumulators hold this until the products are waited for: a NaN, and easily recognised.
static const uint32_t ACCUMULATOR_IN_FLIGHT = 0x7FC0F17Eu;

struct ProductArguments {
    float *d;
    const uint32_t *a_words;
    Product product;
};

static inline float &tile_element(Accumulator &s, int lane, int i) {
    int g = lane / 4, q = lane % 4;
    return s.value[(size_t)((g + i / 2 % 2 * 8) * s.n + i / 4 * 8 + 2 * q + i % 2)];
}

static Accumulator *accumulator_take(WarpProducts &own, void **arg, int n) {
    float *first = static_cast<ProductArguments *>(arg[0])->d;
    for (auto &s : own.sums) {
        if (s->d[0] != first || s->n != n) continue;
        s->users++;
        return s.get();
    }
    own.sums.emplace_back(new Accumulator());
    Accumulator &s = *own.sums.back();
    s.n = n;
    s.users = 1;
    s.value.resize((size_t)(16 * n));
    for (int l = 0; l < WARP; l++) {
        s.d[l] = static_cast<ProductArguments *>(arg[l])->d;
        for (int i = 0; i < n / 2; i++) {
            tile_element(s, l, i) = s.d[l][i];
            memcpy(&s.d[l][i], &ACCUMULATOR_IN_FLIGHT, 4);
        }
    }
    return &s;
}

static void accumulator_give_back(WarpProducts &own, Accumulator *s, const void *pc) {
    if (--s->users) return;
    bool touched = false;
    for (int l = 0; l < WARP; l++) {
        for (int i = 0; i < s->n / 2; i++) {
            touched = touched || bits_as<uint32_t>(s->d[l][i]) != ACCUMULATOR_IN_FLIGHT;
            s->d[l][i] = tile_element(*s, l, i);
        }
    }
    if (touched) report("wgmma-accumulator", pc, "accumulators of this product were written before it was waited for");
    for (auto &other : own.sums) {
        if (other.get() != s) continue;
        other.swap(own.sums.back());
        own.sums.pop_back();
        break;
    }
}

static void product_run(Warp &w, const Product &p) {
    static thread_local float a[16 * 16], b[16 * 256];
    int row = w.number % 4 * 16;
    Accumulator &s = *p.sum;
    if (!p.accumulate) std::fill(s.value.begin(), s.value.end(), 0.0f);
    if (!p.legal) {
        std::fill(s.value.begin(), s.value.end(), bits_as<float>(0xFFFFFFFFu));
        return;
    }
    if (p.a_registers) {
        for (int l = 0; l < WARP; l++) fragment_to_tile(a, l, p.a_words[l]);
    } else {
        operand_read(w.block, operand_of(p.a, p.a_transposed), row, 16, a, 16, 1);
    }
    operand_read(w.block, operand_of(p.b, p.b_transposed), 0, p.n, b, 1, p.n);
    tile_multiply(s.value.data(), a, b, p.n);
}

// Calls range(offset, bytes) for the shared memory whose reading is put down to this warp: its rows of a, and of b,
// which all four warps read, a quarter. Whoever overwrites b too early meets the quarter of a warp that is not done.
template <typename Range> static void product_ranges(const Warp &w, const Product &p, Range range) {
    int i = w.number % 4, first = p.n / 8 * i / 4 * 8, end = p.n / 8 * (i + 1) / 4 * 8;
    if (!options.check) return;
    if (!p.a_registers) operand_ranges(operand_of(p.a, p.a_transposed), i * 16, 16, range);
    if (end > first) operand_ranges(operand_of(p.b, p.b_transposed), first, end - first, range);
}

// A tile starts where the swizzling pattern does; only a step along a K-major row changes bits below it.
static void operand_check(uint64_t descriptor, bool mn_major, const char *name, const void *pc) {
    Operand o = operand_of(descriptor, mn_major);
    if (descriptor >> 49 & 7) report("wgmma-descriptor", pc, "%s has a base offset, which is not emulated", name);
    if (o.width && (o.start >> 7 & (size_t)(o.width / 16 - 1)))
        report("wgmma-descriptor", pc, "%s starts at shared address %zu, inside a swizzling pattern of %d bytes", name,
               o.start, o.width * 8);
    if (o.width && o.start % (size_t)o.width && mn_major)
        report("wgmma-descriptor", pc, "%s starts at shared address %zu, inside a row of %d bytes", name, o.start,
               o.width);
}

static void product_compare(Warp &w, WarpProducts &own, const Product &p) {
    GroupCalls &calls = async_of(w.block).calls[(size_t)w.number / 4];
    ProductCall call = { p.n, p.a, p.b, (unsigned)p.a_registers | (unsigned)p.a_transposed << 1 |
                                        (unsigned)p.b_transposed << 2 | (unsigned)p.accumulate << 3 };
    uint64_t i = own.issued++ - calls.first;
    if (i == calls.calls.size()) {
        calls.calls.push_back(call);
    } else {
        const ProductCall &other = calls.calls[i];
        if (call.n != other.n || call.a != other.a || call.b != other.b || call.flags != other.flags)
            report("wgmma-differs", p.pc, "warp %d asks for another product than its warpgroup's first", w.number % 4);
    }
    if (calls.calls.size() < 4096) return;
    uint64_t passed = UINT64_MAX;                            // what all four warps have asked for is of no use any more
    for (int i4 = w.number / 4 * 4; i4 < w.number / 4 * 4 + 4; i4++) {
        uint64_t issued = async_of(w.block).products[(size_t)i4].issued;
        passed = issued < passed ? issued : passed;
    }
    calls.calls.erase(calls.calls.begin(), calls.calls.begin() + (ptrdiff_t)(passed - calls.first));
    calls.first = passed;
}

static void products_finish(Warp &w, size_t count) {
    WarpProducts &own = async_of(w.block).products[(size_t)w.number];
    uint32_t clock = 0;
    for (size_t i = 0; i < count; i++) {
        Product &p = own.flying[i];
        if (p.sum) {
            product_run(w, p);
            accumulator_give_back(own, p.sum, p.pc);
        }
        clock = p.clock;
        if (p.legal) product_ranges(w, p, [&](size_t offset, size_t bytes) {
            pending_end(w.block->shared + offset, bytes, ACCESS_READ | ACCESS_ASYNC | ACCESS_PENDING, own.agent,
                        p.clock);
        });
    }
    own.flying.erase(own.flying.begin(), own.flying.begin() + (ptrdiff_t)count);
    if (!count || !options.check) return;
    for (int l = 0; l < WARP; l++) {
        if (w.lane[l]) thread_clocks(w.lane[l])[own.agent] = clock;
    }
}

static void product_work(Warp &w, uint32_t lanes, void **arg) {
    if (lanes != 0xFFFFFFFFu) return;                        // reported by the collective's caller
    WarpProducts &own = async_of(w.block).products[(size_t)w.number];
    Product p = static_cast<ProductArguments *>(arg[0])->product;
    for (int l = 0; l < WARP; l++) {
        const ProductArguments &other = *static_cast<ProductArguments *>(arg[l]);
        if (other.product.a != p.a || other.product.b != p.b || other.product.accumulate != p.accumulate) {
            report("wgmma-differs", p.pc, "lane %d asks for another product than lane 0", l);
            break;
        }
        if (p.a_registers) memcpy(p.a_words[l], other.a_words, sizeof p.a_words[l]);
    }
    if (!own.fenced) report("wgmma-fence", p.pc, "no WGMMA_FENCE since the kernel began or since the last WGMMA_WAIT");
    own.fenced = true;
    product_compare(w, own, p);
    if (!p.a_registers) operand_check(p.a, p.a_transposed, "a", p.pc);
    operand_check(p.b, p.b_transposed, "b", p.pc);
    if (!own.used) own.agent = agent_new();
    own.used = true;
    p.clock = ++own.clock;
    p.group = own.group;
    p.legal = true;
    product_ranges(w, p, [&](size_t offset, size_t bytes) {
        if (!access({ w.block->shared + offset, bytes, ACCESS_READ | ACCESS_ASYNC | ACCESS_PENDING, p.pc, w.lane[0],
                      own.agent, p.clock })) p.legal = false;
    });
    p.sum = accumulator_take(own, arg, p.n);
    if (options.eager) {
        product_run(w, p);
        accumulator_give_back(own, p.sum, p.pc);
        p.sum = nullptr;
    }
    own.flying.push_back(p);
}

__attribute__((noinline)) void wgmma_issue(float *d, int n, const uint32_t *a_registers, uint64_t a, uint64_t b,
                                           bool a_transposed, bool b_transposed, bool accumulate, Site site) {
    const void *pc = __builtin_return_address(0);
    if ((size_t)current->warp / 4 * 4 + 4 > current->block->warp.size()) {
        report("wgmma-group", pc, "warp %d has no whole warpgroup of four warps", current->warp);
        return;
    }
    ProductArguments c = { d, a_registers, Product() };
    c.product.n = n;
    c.product.a = a;
    c.product.b = b;
    c.product.a_registers = a_registers != nullptr;
    c.product.a_transposed = a_transposed;
    c.product.b_transposed = b_transposed;
    c.product.accumulate = accumulate;
    c.product.pc = pc;
    warp_is_whole(pc, "wgmma");
    collective("wgmma", 0xFFFFFFFFu, site, product_work, &c, pc);
}

static void fence_work(Warp &w, uint32_t, void **) { async_of(w.block).products[(size_t)w.number].fenced = true; }
__attribute__((noinline)) void wgmma_fence(Site site) {
    collective("wgmma.fence", 0xFFFFFFFFu, site, fence_work, nullptr, __builtin_return_address(0));
}

static void commit_work(Warp &w, uint32_t, void **) { async_of(w.block).products[(size_t)w.number].group++; }
__attribute__((noinline)) void wgmma_commit(Site site) {
    collective("wgmma.commit_group", 0xFFFFFFFFu, site, commit_work, nullptr, __builtin_return_address(0));
}

static void wait_work(Warp &w, uint32_t, void **arg) {
    WarpProducts &own = async_of(w.block).products[(size_t)w.number];
    uint64_t pending = (uint64_t)*static_cast<int *>(arg[__builtin_ctz(w.live)]);
    size_t count = 0;
    while (count < own.flying.size() && own.flying[count].group + pending < own.group) count++;
    products_finish(w, count);
    own.fenced = false;
}
__attribute__((noinline)) void wgmma_wait(int pending, Site site) {
    collective("wgmma.wait_group", 0xFFFFFFFFu, site, wait_work, &pending, __builtin_return_address(0));
}

void products_block_end(Block *b) {
    for (const WarpProducts &own : async_of(b).products) {
        if (own.flying.empty()) continue;
        report("async-unwaited", own.flying[0].pc, "the block ends and nobody waited for this wgmma");
        return;
    }
}

static void registers_work(Warp &, uint32_t, void **) {}
__attribute__((noinline)) void set_max_registers(int n, bool more, Site site) {
    const void *pc = __builtin_return_address(0);
    if (n % 8 || n < 24 || n > 256) report("setmaxnreg", pc, "%d registers: not a multiple of 8 in 24..256", n);
    collective(more ? "setmaxnreg.inc" : "setmaxnreg.dec", 0xFFFFFFFFu, site, registers_work, nullptr, pc);
}
}  // namespace emu
