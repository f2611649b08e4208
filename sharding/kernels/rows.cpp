// What of the kernel depends on the processor's instructions: compiled once for each set, into a namespace of its own.
//
// No sum is reordered and no product fused (-ffp-contract=off), so that all sets give the same bits.
#include "rows.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "intrinsics.h"
#include "memory.h"

namespace INSTRUCTIONS {

#include "draws.h"
#include "halves.h"

constexpr int64_t LANES = 16;  // partial sums of a reduction over columns, whatever a vector of the processor holds
constexpr int64_t AHEAD = 16;  // entries between a prefetch and its use
constexpr int64_t LINE = 64;

// ---------------------------------------------------------------- rounding

// Rounds a row's values to multiples of fp16's unit, up or down by the draws of (key, row, column): `tables/rounding.py`.
static void round_up_or_down(float* row, int64_t number, const Table& table) {
    const uint64_t base = (uint64_t)(number + table.first_row) << 20;
    for (int64_t d = 0; d < table.columns;) {
        const int64_t column = table.first_column + d, end = std::min(table.columns, d + 4 - column % 4);
        uint64_t word = mixed((base + (uint64_t)(column / 4)) * 0x9E3779B97F4A7C15ull + table.key) >> (16 * (column % 4));
        for (; d < end; d++, word >>= 16) {
            uint32_t bits;
            std::memcpy(&bits, row + d, 4);
            bits &= 0x7F800000u;
            float unit;
            std::memcpy(&unit, &bits, 4);
            unit = std::max(unit * 0x1p-10f, 0x1p-24f);
            row[d] = std::floor((float)(word & 0x1FFF) * 0x1p-13f + row[d] / unit) * unit;
        }
    }
}

// ---------------------------------------------------------------- rules: one row w [n] changes by g [n]

static inline float mean_square(const float* g, int64_t n) {
    float lane[LANES] = {0};
    int64_t d = 0;
    for (; d + LANES <= n; d += LANES)
        for (int64_t i = 0; i < LANES; i++) lane[i] += g[d + i] * g[d + i];
    for (int64_t i = 0; d + i < n; i++) lane[i] += g[d + i] * g[d + i];
    for (int64_t width = LANES / 2; width; width /= 2)
        for (int64_t i = 0; i < width; i++) lane[i] += lane[i + width];
    return lane[0] / (float)n;
}

static inline void sgd(const Rule& rule, const Table& table, int64_t row, float* __restrict w, const float* __restrict g, float lr) {
    const int64_t n = table.columns;
    if (!rule.a) {
        for (int64_t d = 0; d < n; d++) w[d] -= lr * g[d];
        return;
    }
    float* __restrict u = table.first + row * n;
    for (int64_t d = 0; d < n; d++) {
        u[d] = u[d] * rule.a + g[d];
        w[d] -= lr * u[d];
    }
}

static inline void adagrad(const Rule& rule, const Table& table, int64_t row, float* __restrict w, const float* __restrict g, float lr) {
    float* __restrict n = table.first + row * table.columns;
    for (int64_t d = 0; d < table.columns; d++) {
        n[d] += g[d] * g[d];
        w[d] -= lr * g[d] / (std::sqrt(n[d]) + rule.eps);
    }
}

static inline void rowwise_adagrad(const Rule& rule, const Table& table, int64_t row, float* __restrict w, const float* __restrict g, float lr) {
    const float n = table.first[row] += mean_square(g, table.columns);
    const float step = lr / (std::sqrt(n) + rule.eps);
    for (int64_t d = 0; d < table.columns; d++) w[d] -= step * g[d];
}

static inline void rmsprop(const Rule& rule, const Table& table, int64_t row, float* __restrict w, const float* __restrict g, float lr) {
    float* __restrict n = table.first + row * table.columns;
    for (int64_t d = 0; d < table.columns; d++) {
        n[d] = n[d] * rule.a + rule.b * (g[d] * g[d]);
        w[d] -= lr * g[d] / (std::sqrt(n[d]) + rule.eps);
    }
}

static inline void adam(const Rule& rule, const Table& table, int64_t row, float* __restrict w, const float* __restrict g, float lr) {
    const float steps = table.per_row[row] += 1;
    const int64_t t = std::min((int64_t)steps, rule.corrections - 1);  // the last is what no further step changes
    const float of_mean = rule.of_mean[t], of_square = rule.of_square[t];
    const float of_g = rule.a, b2 = rule.b, of_square_g = rule.c;
    float *__restrict m = table.first + row * table.columns, *__restrict v = table.second + row * table.columns;
    for (int64_t d = 0; d < table.columns; d++) {
        m[d] += of_g * (g[d] - m[d]);
        v[d] = v[d] * b2 + of_square_g * (g[d] * g[d]);
        w[d] -= lr * ((m[d] / of_mean) / (std::sqrt(v[d] / of_square) + rule.eps));
    }
}

static inline void ftrl(const Rule& rule, const Table& table, int64_t row, float* __restrict w, const float* __restrict g, float lr) {
    float *__restrict z = table.first + row * table.columns, *__restrict n = table.second + row * table.columns;
    const float beta = rule.a, l1 = rule.b, l2 = rule.c;
    for (int64_t d = 0; d < table.columns; d++) {
        n[d] += g[d] * g[d];
        if (lr == 0) continue;
        const float c = (std::sqrt(n[d]) + beta) / lr + l2;
        const float sign = (float)((w[d] > 0) - (w[d] < 0));
        const float before = w[d] == 0 ? z[d] : sign * -l1 - w[d] * c;
        z[d] = before + g[d];
        const float shrunk = z[d] > l1 ? z[d] - l1 : z[d] < -l1 ? z[d] + l1 : 0.0f;
        w[d] = g[d] == 0 ? w[d] : shrunk / -c;
    }
}

// Changes a row by its summed gradient g, which is overwritten. w: [columns] to work in, for halves.
template <int KIND>
static inline void change(const Table& table, const Step& step, int64_t row, float* g, float* work) {
    const Rule& rule = table.rule;
    const int64_t n = table.columns;
    const float lr = rule.learning_rate * step.learning_rate_factor;
    float* w = (float*)table.weight + row * n;
    uint16_t* halves = (uint16_t*)table.weight + row * n;
    if (table.half) widen(halves, w = work, n);
    if (rule.of_summed_loss)
        for (int64_t d = 0; d < n; d++) g[d] *= step.loss_weight;
    if (rule.by_frequency) {
        const float share = lr * rule.weight_decay * (1 / std::max(table.samples[row], 1.0f));
        for (int64_t d = 0; d < n; d++) w[d] -= share * w[d];
    } else if (rule.weight_decay) {
        for (int64_t d = 0; d < n; d++) g[d] += rule.weight_decay * w[d];
    }
    if (KIND == SGD) sgd(rule, table, row, w, g, lr);
    if (KIND == ADAGRAD) adagrad(rule, table, row, w, g, lr);
    if (KIND == ROWWISE_ADAGRAD) rowwise_adagrad(rule, table, row, w, g, lr);
    if (KIND == RMSPROP) rmsprop(rule, table, row, w, g, lr);
    if (KIND == ADAM) adam(rule, table, row, w, g, lr);
    if (KIND == FTRL) ftrl(rule, table, row, w, g, lr);
    if (!table.half) return;
    if (table.rounds) round_up_or_down(w, row, table);
    narrow(w, halves, n);
}

// ---------------------------------------------------------------- from a batch to its rows

// An entry is one id: its row in the high half, its place among the table's entries in the low one.
using Entry = uint64_t;

static inline int64_t row_of(Entry entry) { return (int64_t)(entry >> 32); }
static inline int64_t place_of(Entry entry) { return (int64_t)(entry & 0xFFFFFFFFu); }

constexpr int DIGIT = 11;  // bits that a pass sorts by

// Sorts entries by the bits [low, high) of their rows, stably, so that equal rows stay in the order of the batch.
static Entry* sort(Entry* from, Entry* to, int64_t n, int low, int high) {
    const int passes = (high - low + DIGIT - 1) / DIGIT;
    const int width = passes ? (high - low + passes - 1) / passes : 0;
    uint32_t count[1 << DIGIT];
    for (int pass = 0; pass < passes; pass++) {
        const int shift = 32 + low + pass * width;
        const Entry mask = ((Entry)1 << width) - 1;
        std::fill(count, count + ((size_t)1 << width), 0);
        for (int64_t i = 0; i < n; i++) count[(from[i] >> shift) & mask]++;
        uint32_t sum = 0;
        for (int64_t c = 0; c <= (int64_t)mask; c++) sum += std::exchange(count[c], sum);
        for (int64_t i = 0; i < n; i++) to[count[(from[i] >> shift) & mask]++] = from[i];
        std::swap(from, to);
    }
    return from;
}

static int bits_of(int64_t rows) {
    int bits = 0;
    while (bits < 32 && (rows - 1) >> bits) bits++;
    return bits;
}

// The entries of one table: of each of its features in turn, all ids.
struct Entries {
    const Table* table;
    const Batch* batch;
    const float* gradient;
    std::vector<const Feature*> features;
    std::vector<int64_t> first_id, first_entry;  // of each feature; and the end
    std::unique_ptr<Entry[]> sorted, spare;
    std::unique_ptr<int64_t[]> from;             // where each entry's gradient begins, but where it follows from its place
    int64_t size() const { return first_entry.back(); }

    const float* gradient_of(int64_t place) const {
        return gradient + (from ? from[place] : features[0]->column + place * batch->stride);
    }
    float scale_of(int64_t place) const {
        size_t f = 0;
        while (place >= first_entry[f + 1]) f++;
        return batch->scale[first_id[f] + place - first_entry[f]];
    }
    bool whole_batch_in_order() const { return features.size() == 1 && !batch->offsets; }

    void take_room() {
        sorted = room<Entry>(size());
        spare = room<Entry>(size());
        if (!whole_batch_in_order()) from = room<int64_t>(size());
    }

    void list() {
        const int64_t bags = batch->bags;
        for (size_t f = 0; f < features.size(); f++) {
            const int64_t* ids = batch->ids + first_id[f];
            const int64_t start = first_entry[f], n = first_entry[f + 1] - start;
            for (int64_t i = 0; i < n; i++) sorted[start + i] = (Entry)ids[i] << 32 | (Entry)(start + i);
            if (!from) continue;
            if (!batch->offsets) {
                for (int64_t b = 0; b < bags; b++) from[start + b] = b * batch->stride + features[f]->column;
                continue;
            }
            const int64_t* offsets = batch->offsets + index[f] * bags;
            for (int64_t b = 0; b < bags; b++)
                for (int64_t i = offsets[b]; i < offsets[b + 1]; i++)
                    from[start + i - offsets[0]] = b * batch->stride + features[f]->column;
        }
    }
    std::vector<int64_t> index;                  // of each feature in the batch
};

// Calls `done(row, sum)` for every distinct row among n entries that are sorted by row; sum is [columns], to be used up.
template <typename Done>
static void sum_by_row(const Entries& entries, const Entry* sorted, int64_t n, float* sum, const Done& done) {
    const Table& table = *entries.table;
    const int64_t columns = table.columns, width = columns * (table.half ? 2 : 4);
    const bool scaled = entries.batch->scale;
    for (int64_t i = 0; i < n;) {
        const int64_t row = row_of(sorted[i]);
        std::fill(sum, sum + columns, 0.0f);
        for (; i < n && row_of(sorted[i]) == row; i++) {
            if (i + AHEAD < n) {
                const int64_t next = row_of(sorted[i + AHEAD]);
                const char* w = (const char*)table.weight + next * width;
                const char* g = (const char*)entries.gradient_of(place_of(sorted[i + AHEAD]));
                for (int64_t at = 0; at < width; at += LINE) __builtin_prefetch(w + at, 1);
                for (int64_t at = 0; at < columns * 4; at += LINE) __builtin_prefetch(g + at);
                if (table.rule.kind == ROWWISE_ADAGRAD) {
                    __builtin_prefetch(table.first + next, 1);
                } else {
                    for (const float* state : {table.first, table.second})
                        if (state)
                            for (int64_t at = 0; at < columns; at += LINE / 4) __builtin_prefetch(state + next * columns + at, 1);
                }
                if (table.per_row) __builtin_prefetch(table.per_row + next, 1);
            }
            const int64_t place = place_of(sorted[i]);
            const float* __restrict g = entries.gradient_of(place);
            if (scaled) {
                const float scale = entries.scale_of(place);
                for (int64_t d = 0; d < columns; d++) sum[d] += scale * g[d];
            } else {
                for (int64_t d = 0; d < columns; d++) sum[d] += g[d];
            }
        }
        done(row, sum);
    }
}

// A table's entries whose rows end in the same `low` bits, which are updated by one thread.
struct Part { const Entries* entries; Entry *sorted, *spare; int64_t size; int low; };

template <int KIND>
static void update_part(const Part& part, const Step& step, float* work) {
    const Table& table = *part.entries->table;
    const Entry* sorted = sort(part.sorted, part.spare, part.size, part.low, std::max(part.low, bits_of(table.rows)));
    sum_by_row(*part.entries, sorted, part.size, work, [&](int64_t row, float* sum) {
        change<KIND>(table, step, row, sum, work + table.columns);
    });
}

template <typename Call>
static void by_kind(int32_t kind, const Call& call) {
    switch (kind) {
        case SGD: return call(std::integral_constant<int, SGD>());
        case ADAGRAD: return call(std::integral_constant<int, ADAGRAD>());
        case ROWWISE_ADAGRAD: return call(std::integral_constant<int, ROWWISE_ADAGRAD>());
        case RMSPROP: return call(std::integral_constant<int, RMSPROP>());
        case ADAM: return call(std::integral_constant<int, ADAM>());
        case FTRL: return call(std::integral_constant<int, FTRL>());
    }
}

// Divides a table's entries by the last bits of their rows, in chunks side by side; the order within a part stays.
static void divide(Entries& entries, int low, int threads, std::vector<Part>& parts) {
    const int64_t n = entries.size(), count = (int64_t)1 << low;
    std::vector<int64_t> starts(threads * count);
    const auto chunk = [&](int t) { return std::make_pair(n * t / threads, n * (t + 1) / threads); };
    Entry *from = entries.sorted.get(), *to = entries.spare.get();
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++)
        for (auto [i, end] = chunk(t); i < end; i++) starts[t * count + (row_of(from[i]) & (count - 1))]++;
    std::vector<int64_t> begins(count + 1);
    int64_t sum = 0;
    for (int64_t part = 0; part < count; part++) {
        begins[part] = sum;
        for (int t = 0; t < threads; t++) sum += std::exchange(starts[t * count + part], sum);
    }
    begins[count] = sum;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++)
        for (auto [i, end] = chunk(t); i < end; i++) to[starts[t * count + (row_of(from[i]) & (count - 1))]++] = from[i];
    for (int64_t part = 0; part < count; part++)
        if (const int64_t size = begins[part + 1] - begins[part])
            parts.push_back({&entries, to + begins[part], from + begins[part], size, low});
}

static std::vector<Entries> entries_of(const Table* tables, int64_t count, const Feature* features, const Batch& batch, const float* gradient) {
    std::vector<Entries> all(count);
    for (int64_t t = 0; t < count; t++) {
        all[t].table = tables + t;
        all[t].batch = &batch;
        all[t].gradient = gradient;
        all[t].first_entry.push_back(0);
    }
    for (int64_t f = 0; f < batch.features; f++) {
        Entries& entries = all[features[f].table];
        const int64_t first = batch.offsets ? batch.offsets[f * batch.bags] : f * batch.bags;
        const int64_t last = batch.offsets ? batch.offsets[(f + 1) * batch.bags] : (f + 1) * batch.bags;
        entries.features.push_back(features + f);
        entries.index.push_back(f);
        entries.first_id.push_back(first);
        entries.first_entry.push_back(entries.size() + last - first);
    }
    return all;
}

// Floats that each thread works in.
struct UpdateWork {
    int64_t each;
    std::unique_ptr<float[]> floats;
    UpdateWork(int threads, int64_t n) : each((n + 31) / 16 * 16), floats(room<float>(threads * each)) {}  // no line is shared
    float* mine() const { return floats.get() + omp_get_thread_num() * each; }
};

constexpr int64_t DIVIDED = 1 << 14;  // entries of a table from which on its update is worth dividing

void update(const Table* tables, int64_t count, const Feature* features, const Batch& batch, const float* gradient, const Step& step, int threads) {
    std::vector<Entries> all = entries_of(tables, count, features, batch, gradient);
    for (Entries& entries : all) entries.take_room();
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t t = 0; t < count; t++) all[t].list();
    std::vector<Part> parts;
    for (Entries& entries : all) {
        if (threads > 1 && entries.size() >= DIVIDED) {
            divide(entries, bits_of(4 * threads), threads, parts);
        } else if (entries.size()) {
            parts.push_back({&entries, entries.sorted.get(), entries.spare.get(), entries.size(), 0});
        }
    }
    std::stable_sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.size > b.size; });
    int64_t widest = 0;
    for (int64_t t = 0; t < count; t++) widest = std::max(widest, tables[t].columns);
    const UpdateWork work(threads, 2 * widest);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (size_t p = 0; p < parts.size(); p++)
        by_kind(parts[p].entries->table->rule.kind, [&](auto kind) { update_part<decltype(kind)::value>(parts[p], step, work.mine()); });
}

// Returns how many distinct rows of table t a batch names; `rows` and `sums` [.., columns] have room for every id.
int64_t sum(const Table* tables, int64_t count, int64_t t, const Feature* features, const Batch& batch, const float* gradient, int64_t* rows, float* sums) {
    Entries entries = std::move(entries_of(tables, count, features, batch, gradient)[t]);
    entries.take_room();
    entries.list();
    const int64_t n = entries.size(), columns = tables[t].columns;
    const Entry* sorted = sort(entries.sorted.get(), entries.spare.get(), n, 0, bits_of(tables[t].rows));
    const std::unique_ptr<float[]> work = room<float>(columns);
    int64_t found = 0;
    sum_by_row(entries, sorted, n, work.get(), [&](int64_t row, const float* sum) {
        std::copy(sum, sum + columns, sums + found * columns);
        rows[found++] = row;
    });
    return found;
}

// Changes every row of a table by a gradient [rows, stride], or those whose number in column `named` is not 0.
void update_all(const Table& table, const float* gradient, int64_t stride, int64_t named, const Step& step, int threads) {
    const UpdateWork work(threads, 2 * table.columns);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < table.rows; row++) {
        const float* g = gradient + row * stride;
        if (named >= 0 && g[named] == 0) continue;
        float* summed = work.mine();
        std::copy(g, g + table.columns, summed);
        by_kind(table.rule.kind, [&](auto kind) { change<decltype(kind)::value>(table, step, row, summed, summed + table.columns); });
    }
}

// ---------------------------------------------------------------- lookups

// Sums n rows of a table into out [columns].
template <bool HALF>
static inline void pool_bag(const Table& table, const int64_t* ids, int64_t n, const float* scale, float* __restrict out, float* work) {
    const int64_t columns = table.columns;
    const auto row = [&](int64_t i) -> const float* {
        if (!HALF) return (const float*)table.weight + ids[i] * columns;
        widen((const uint16_t*)table.weight + ids[i] * columns, work, columns);
        return work;
    };
    if (n == 0) std::fill(out, out + columns, 0.0f);
    for (int64_t i = 0; i < n; i++) {
        const float* __restrict from = row(i);
        const float by = scale ? scale[i] : 1.0f;
        if (i == 0) {
            for (int64_t d = 0; d < columns; d++) out[d] = by * from[d];
        } else {
            for (int64_t d = 0; d < columns; d++) out[d] += by * from[d];
        }
    }
}

static inline void prefetch_row(const Table& table, int64_t row, int64_t width) {
    const char* from = (const char*)table.weight + row * width;
    for (int64_t at = 0; at < width; at += LINE) __builtin_prefetch(from + at);
    __builtin_prefetch(from + width - 1);
}

// Copies the rows of bags [start, stop) of one id each; ids: those of all `bags`.
static void copy_rows(const Table& table, const int64_t* ids, int64_t start, int64_t stop, int64_t bags, float* out, int64_t stride) {
    const int64_t columns = table.columns;
    for (int64_t b = start; b < stop; b++) {
        if (b + AHEAD < bags) prefetch_row(table, ids[b + AHEAD], columns * 4);
        const float* __restrict from = (const float*)table.weight + ids[b] * columns;
        float* __restrict to = out + b * stride;
        int64_t d = 0;
        for (; d + 8 <= columns; d += 8) std::memcpy(to + d, from + d, 32);
        for (; d + 4 <= columns; d += 4) std::memcpy(to + d, from + d, 16);
        for (; d < columns; d++) to[d] = from[d];
    }
}

// Sums the rows of bags [start, stop) of a feature. work: [columns], for halves.
template <bool HALF>
static void pool_bags(const Table& table, const Batch& batch, int64_t f, int64_t start, int64_t stop, float* out, float* work) {
    const int64_t bags = batch.bags, width = table.columns * (HALF ? 2 : 4), all = batch.offsets ? batch.offsets[batch.features * bags] : 0;
    for (int64_t b = start; b < stop; b++) {
        const int64_t bag = f * bags + b;
        const int64_t first = batch.offsets ? batch.offsets[bag] : bag, n = batch.offsets ? batch.offsets[bag + 1] - first : 1;
        if (b + AHEAD < bags) {
            const int64_t later = batch.offsets ? batch.offsets[bag + AHEAD] : bag + AHEAD;
            if (!batch.offsets || later < all) prefetch_row(table, batch.ids[later], width);
        }
        pool_bag<HALF>(table, batch.ids + first, n, batch.scale ? batch.scale + first : nullptr, out + b * batch.stride, work);
    }
}

constexpr int64_t POOLED = 512;  // bags of a feature that are looked up in one go: their vectors stay near, and all threads have some

void pool(const Table* tables, const Feature* features, const Batch& batch, float* out, int threads) {
    const int64_t bags = batch.bags, blocks = (bags + POOLED - 1) / POOLED;
    int64_t widest = 1;
    for (int64_t f = 0; f < batch.features; f++) widest = std::max(widest, tables[features[f].table].columns);
    const UpdateWork work(threads, widest);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t task = 0; task < batch.features * blocks; task++) {
        const int64_t f = task % batch.features, start = task / batch.features * POOLED, stop = std::min(bags, start + POOLED);
        const Table& table = tables[features[f].table];
        float* to = out + features[f].column;
        if (table.half) pool_bags<true>(table, batch, f, start, stop, to, work.mine());
        else if (batch.offsets || batch.scale) pool_bags<false>(table, batch, f, start, stop, to, work.mine());
        else copy_rows(table, batch.ids + f * bags, start, stop, bags, to, batch.stride);
    }
}

}  // namespace INSTRUCTIONS
