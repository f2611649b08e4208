// Which rows ids have, and which they get. Integers alone, so that every form gives the same; buckets do not compete, so that
// threads share them out.
#include "ids.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

namespace INSTRUCTIONS {

constexpr int64_t NEVER = std::numeric_limits<int64_t>::max(), BITS = 31, LARGEST = ((int64_t)1 << BITS) - 1;
constexpr int64_t AHEAD = 8;  // ids between a prefetch and its use

static inline void prefetch(const int64_t* values, int64_t n) {
    for (int64_t at = 0; at < n; at += 8) __builtin_prefetch(values + at);
}

// Finds the rows of ids [n], which may be in sets [n, choices]: rows [n], -1 for those that have none.
void find(const Cache& cache, const int64_t* ids, const int64_t* sets, int64_t n, int64_t choices, int64_t* rows, int threads) {
    const int64_t ways = cache.ways;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        if (i + AHEAD < n)
            for (int64_t c = 0; c < choices; c++) prefetch(cache.ids + sets[(i + AHEAD) * choices + c] * ways, ways);
        int64_t found = -1;
        for (int64_t c = choices - 1; c >= 0; c--) {
            const int64_t first = sets[i * choices + c] * ways;
            for (int64_t w = 0; w < ways; w++)
                if (cache.ids[first + w] == ids[i]) found = first + w;
        }
        rows[i] = found;
    }
}

static inline int64_t worth(const Cache& cache, int64_t row, int64_t step, bool evict) {
    const int64_t count = std::min(cache.count[row], LARGEST), last_use = cache.last_use[row];
    if (!evict && count > 0) return NEVER;
    const int64_t by_use = last_use * ((int64_t)1 << BITS) + count;
    if (cache.policy == LRU) return by_use;
    const bool aged = cache.age >= 0 && last_use <= step - cache.age;
    if (cache.policy == AGE) return aged ? by_use : NEVER;
    if (aged) return by_use - ((int64_t)1 << 62);
    return last_use == step ? NEVER : count * ((int64_t)1 << BITS) + last_use;
}

// An id that waits: which one, the row of its sets that is worth least (-1: none is to be taken), the set it picks, that set's
// free rows.
struct Waiting { int64_t id, least, picked, free; };

static void look(const Cache& cache, const int64_t* sets, int64_t choices, int64_t step, bool evict, Waiting& waiting) {
    const int64_t ways = cache.ways;
    int64_t least = NEVER, most = -1;
    waiting.least = waiting.picked = -1;
    for (int64_t c = 0; c < choices; c++) {
        const int64_t first = sets[waiting.id * choices + c] * ways;
        int64_t free = 0;
        for (int64_t row = first; row < first + ways; row++) {
            free += cache.count[row] == 0;
            const int64_t value = worth(cache, row, step, evict);
            if (value < least) least = value, waiting.least = row;
        }
        if (free > most) most = free, waiting.picked = first / ways;
    }
    waiting.free = most;
    if (waiting.least >= 0 && cache.last_use[waiting.least] == step) waiting.least = -1;
    if (waiting.least >= 0 && cache.count[waiting.least] > 0) waiting.picked = waiting.least / ways, waiting.free = 0;
}

// Gives rows to the ids of one bucket, in rounds, as `SetCache.place` says. waiting: in the order of serving.
static void place_in_bucket(const Cache& cache, const int64_t* ids, const int64_t* counts, const int64_t* sets, int64_t choices, int64_t step, bool evict, std::vector<Waiting>& waiting, int64_t* rows, bool* evicted) {
    const int64_t base = sets[waiting[0].id * choices] / cache.bucket_sets * cache.bucket_sets;
    std::vector<int64_t> served(cache.bucket_sets), next(cache.bucket_sets);
    while (!waiting.empty()) {
        for (Waiting& one : waiting) look(cache, sets, choices, step, evict, one);
        std::fill(served.begin(), served.end(), 0);
        for (Waiting& one : waiting) {
            if (one.least < 0) continue;
            int64_t &rank = served[one.picked - base], &row = next[one.picked - base];
            if (rank == 0) row = one.picked * cache.ways;
            if (rank >= (one.free ? (one.free + 1) / 2 : 1)) continue;
            rank++;
            int64_t taken = one.least;
            if (one.free) {
                while (cache.count[row] > 0) row++;  // rows of this round are taken: their counts are set below
                taken = row++;
            }
            evicted[one.id] = cache.count[taken] > 0;
            rows[one.id] = taken;
            cache.ids[taken] = ids[one.id];
            cache.count[taken] = counts[one.id];
            cache.last_use[taken] = step;
        }
        waiting.erase(std::remove_if(waiting.begin(), waiting.end(), [&](const Waiting& one) { return one.least < 0 || rows[one.id] >= 0; }), waiting.end());
    }
}

void place(const Cache& cache, const int64_t* ids, const int64_t* counts, const int64_t* sets, int64_t n, int64_t choices, int64_t step, bool evict, int64_t* rows, bool* evicted, int threads) {
    std::vector<int64_t> order(n), starts;
    std::iota(order.begin(), order.end(), 0);
    const auto bucket = [&](int64_t i) { return sets[i * choices] / cache.bucket_sets; };
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        const int64_t x = bucket(a), y = bucket(b);
        return x != y ? x < y : counts[a] != counts[b] ? counts[a] > counts[b] : ids[a] < ids[b];
    });
    std::fill(rows, rows + n, -1);
    std::fill(evicted, evicted + n, false);
    for (int64_t i = 0; i < n; i++)
        if (i == 0 || bucket(order[i]) != bucket(order[i - 1])) starts.push_back(i);
    const int64_t buckets = starts.size();
    starts.push_back(n);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t b = 0; b < buckets; b++) {
        std::vector<Waiting> waiting;
        for (int64_t i = starts[b]; i < starts[b + 1]; i++) waiting.push_back({order[i], -1, -1, 0});
        place_in_bucket(cache, ids, counts, sets, choices, step, evict, waiting, rows, evicted);
    }
}

}  // namespace INSTRUCTIONS
