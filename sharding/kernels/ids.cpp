// Integers alone, so that every form gives the same; buckets do not compete, so that threads share them out.
#include "ids.h"

#include <omp.h>

#include <algorithm>

#include "intrinsics.h"
#include "memory.h"

namespace INSTRUCTIONS {

#include "draws.h"

constexpr int64_t NEVER = std::numeric_limits<int64_t>::max(), LONG_AGO = std::numeric_limits<int64_t>::min();
constexpr int64_t UNUSED = -((int64_t)1 << 31), LARGEST = ((int64_t)1 << 31) - 1, BITS = 31;
constexpr int64_t AHEAD = 8, FEW_AHEAD = 4;  // ids between a prefetch and its use
constexpr int64_t FEW = 1 << 12;             // ids that are not worth a second thread

static inline void prefetch(const int64_t* values, int64_t n) {
    for (int64_t at = 0; at < n; at += 8) __builtin_prefetch(values + at);
}

// ---------------------------------------------------------------- where ids may be

static inline uint64_t hash_of(int64_t id) { return mixed((uint64_t)id); }

static inline int64_t bucket_of(uint64_t hash, int64_t buckets) { return (int64_t)((hash >> 32) * (uint64_t)buckets >> 32); }

// The two sets of its bucket that an id may be in; the same one twice where a bucket has no other.
struct Sets { int64_t first, second; };

static inline Sets sets_of(uint64_t hash, int64_t buckets, int64_t bucket_sets) {
    const uint64_t low = 0xFFFFFFFFull, rest = (hash >> 32) * (uint64_t)buckets & low;
    const int64_t first = (int64_t)((hash & low) * (uint64_t)bucket_sets >> 32);
    const int64_t second = first + 1 + (int64_t)(rest * (uint64_t)(bucket_sets - 1) >> 32);
    return {first, second >= bucket_sets ? second - bucket_sets : second};
}

// An id by its hash, of which there is but one, and its place among all ids.
struct Item { uint64_t hash; int64_t at; };

// Ids by their buckets, those of each in the order of the ids: bucket b has the items [starts[b], starts[b + 1]).
struct Divided {
    std::unique_ptr<Item[]> items;
    std::unique_ptr<int64_t[]> starts;
    int64_t largest;
};

static Divided divide(const int64_t* ids, int64_t n, int64_t buckets, int threads) {
    Divided made{room<Item>(n), room<int64_t>(buckets + 1), 0};
    const std::unique_ptr<int64_t[]> next = room<int64_t>(threads * buckets);
    std::fill(next.get(), next.get() + threads * buckets, 0);
    const auto each = [&](int t, const auto& call) {
        for (int64_t i = n * t / threads; i < n * (t + 1) / threads; i++) {
            const uint64_t hash = hash_of(ids[i]);
            call(i, hash, next[t * buckets + bucket_of(hash, buckets)]);
        }
    };
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) each(t, [](int64_t, uint64_t, int64_t& count) { count++; });
    int64_t sum = 0;
    for (int64_t b = 0; b < buckets; b++) {
        made.starts[b] = sum;
        for (int t = 0; t < threads; t++) {
            const int64_t count = next[t * buckets + b];
            next[t * buckets + b] = sum;
            sum += count;
        }
        made.largest = std::max(made.largest, sum - made.starts[b]);
    }
    made.starts[buckets] = n;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) each(t, [&](int64_t i, uint64_t hash, int64_t& place) { made.items[place++] = {hash, i}; });
    return made;
}

// ---------------------------------------------------------------- distinct ids

// Lists the distinct ones of ids [n] bucket by bucket, in each in the order in which they came; returns how many there are.
// found, counts: room for n; times: how often each is to be counted, or null: once. which [n]: the place in the list of each
// id; starts [buckets + 1]: where each bucket's begin.
int64_t distinct(int64_t buckets, const int64_t* ids, const int64_t* times, int64_t n, int64_t* found, int64_t* counts, int64_t* which, int64_t* starts, int threads) {
    if (n < FEW) threads = 1;
    const Divided divided = divide(ids, n, buckets, threads);
    const auto slots_of = [](int64_t items) {
        int64_t slots = 2;
        while (slots < 2 * items) slots *= 2;
        return slots;
    };
    const int64_t most_slots = slots_of(divided.largest);
    const std::unique_ptr<int32_t[]> slots = room<int32_t>(threads * most_slots), numbers = room<int32_t>(n);
    Item* items = divided.items.get();
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4)
    for (int64_t b = 0; b < buckets; b++) {
        const int64_t begin = divided.starts[b], end = divided.starts[b + 1], mask = slots_of(end - begin) - 1;
        int32_t* table = slots.get() + omp_get_thread_num() * most_slots;  // of hashes: their numbers, and 1
        std::fill(table, table + mask + 1, 0);
        int32_t size = 0;
        for (int64_t i = begin; i < end; i++) {
            const auto [hash, at] = items[i];
            int64_t slot = (int64_t)(hash & (uint64_t)mask);
            while (table[slot] && items[begin + table[slot] - 1].hash != hash) slot = (slot + 1) & mask;
            if (!table[slot]) {
                items[begin + size].hash = hash;  // those of the bucket's ids that have been seen stand first
                found[begin + size] = ids[at];
                counts[begin + size] = 0;
                table[slot] = ++size;
            }
            numbers[i] = table[slot] - 1;
            counts[begin + numbers[i]] += times ? times[at] : 1;
        }
        starts[b + 1] = size;
    }
    starts[0] = 0;
    for (int64_t b = 0; b < buckets; b++) {
        const int64_t begin = divided.starts[b], size = starts[b + 1];
        std::copy(found + begin, found + begin + size, found + starts[b]);
        std::copy(counts + begin, counts + begin + size, counts + starts[b]);
        starts[b + 1] += starts[b];
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4)
    for (int64_t b = 0; b < buckets; b++)
        for (int64_t i = divided.starts[b]; i < divided.starts[b + 1]; i++) which[items[i].at] = starts[b] + numbers[i];
    return starts[buckets];
}

// ---------------------------------------------------------------- rows that ids have

// The part of a cache that a bucket has, the b-th of those that are here; its rows are numbered from 0 on.
static Cache part_of(Cache cache, const IdMap& map, int64_t b) {
    const int64_t row = b * map.bucket_sets * cache.ways;
    cache.ids += row, cache.count += row, cache.last_use += row;
    return cache;
}

static inline void prefetch_ids(const Cache& cache, const Sets& sets) {
    prefetch(cache.ids + sets.first * cache.ways, cache.ways);
    prefetch(cache.ids + sets.second * cache.ways, cache.ways);
}

// Returns which of `ways` rows, a multiple of 8, has an id, or -1.
static inline int64_t way_of(const int64_t* ids, int64_t ways, int64_t id) {
#if defined(__AVX512F__)
    const __m512i wanted = _mm512_set1_epi64(id);
    for (int64_t w = 0; w < ways; w += 8)
        if (const __mmask8 equal = _mm512_cmpeq_epi64_mask(_mm512_loadu_si512(ids + w), wanted)) return w + __builtin_ctz(equal);
#elif defined(__AVX2__)
    const __m256i wanted = _mm256_set1_epi64x(id);
    for (int64_t w = 0; w < ways; w += 4) {
        const __m256i equal = _mm256_cmpeq_epi64(_mm256_loadu_si256((const __m256i*)(ids + w)), wanted);
        if (const int bits = _mm256_movemask_pd(_mm256_castsi256_pd(equal))) return w + __builtin_ctz(bits);
    }
#else
    for (int64_t w = 0; w < ways; w++)
        if (ids[w] == id) return w;
#endif
    return -1;
}

static inline int64_t find_in(const Cache& cache, int64_t id, const Sets& sets) {
    for (const int64_t set : {sets.first, sets.second}) {
        const int64_t first = set * cache.ways, way = way_of(cache.ids + first, cache.ways, id);
        if (way >= 0) return first + way;
    }
    return -1;
}

// Finds the table's rows of ids [n], -1 for those that have none. Returns the place of an id of a bucket that is not here, or -1.
int64_t find(const IdMap& map, const int64_t* ids, int64_t n, int64_t* rows, int threads) {
    const int64_t bucket_rows = map.bucket_sets * map.rows.ways;
    int64_t bad = -1;
#pragma omp parallel for num_threads(n < FEW ? 1 : threads) schedule(static) reduction(max : bad)
    for (int64_t i = 0; i < n; i++) {
        const auto at = [&](int64_t place, const auto& call) {
            const uint64_t hash = hash_of(ids[place]);
            const int64_t b = bucket_of(hash, map.buckets) - map.first;
            if (b < 0 || b >= map.own) bad = std::max(bad, place);
            else call(b, part_of(map.rows, map, b), sets_of(hash, map.buckets, map.bucket_sets));
        };
        if (i + AHEAD < n) at(i + AHEAD, [](int64_t, const Cache& cache, const Sets& sets) { prefetch_ids(cache, sets); });
        at(i, [&](int64_t b, const Cache& cache, const Sets& sets) {
            const int64_t row = find_in(cache, ids[i], sets);
            rows[i] = row < 0 ? row : row + (map.first + b) * bucket_rows;
        });
    }
    return bad;
}

// ---------------------------------------------------------------- rows that ids get

// An id that has no row. count: of all its occurrences since it waits. row, candidate: what it gets, or has, of either cache.
struct New {
    int64_t id, count, at, row, candidate;
    Sets sets;
    bool asks, evicts;
};

// A set as it is at the start of a round: what its least row is worth, and which it is; NEVER where none is to be taken.
struct Set {
    int64_t worth, least, free;
    int64_t looked;                // in which call of `place`; 0 where rows were taken since
    int64_t round, served, next;   // of the round: how many ids got a row, and where the next free one may be
};

struct Ticket { int64_t count, id, which; };

// What a thread works in; sets: of one cache at a time.
struct BucketWork {
    New* news;
    Ticket* queue;
    Set* sets;
    int64_t *worths, *fresh;
    int64_t calls, rounds;
};

// spared: a row is not to be taken that was counted more often.
template <int POLICY>
static inline int64_t worth(int64_t count, int64_t last_use, int64_t step, int64_t aged, int64_t spared) {
    const int64_t most = count < LARGEST ? count : LARGEST, by_use = last_use * ((int64_t)1 << BITS) + most;
    int64_t value = by_use;
    if (POLICY == AGE) value = last_use <= aged ? by_use : NEVER;
    if (POLICY == LFU) {
        const int64_t by_count = last_use == step ? NEVER : most * ((int64_t)1 << BITS) + last_use;
        value = last_use <= aged ? by_use - ((int64_t)1 << 62) : by_count;
    }
    return count > spared ? NEVER : value;
}

template <int POLICY>
static void look(const Cache& cache, int64_t first, int64_t step, int64_t spared, int64_t* __restrict worths, Set& set) {
    const int64_t aged = cache.age < 0 ? LONG_AGO : step - cache.age, ways = cache.ways;
    const int64_t *count = cache.count + first, *last_use = cache.last_use + first;
    int64_t least = NEVER, free = 0, way = ways;
#pragma omp simd reduction(min : least) reduction(+ : free)
    for (int64_t w = 0; w < ways; w++) {
        worths[w] = worth<POLICY>(count[w], last_use[w], step, aged, spared);
        least = worths[w] < least ? worths[w] : least;
        free += count[w] == 0;
    }
#pragma omp simd reduction(min : way)
    for (int64_t w = 0; w < ways; w++) way = worths[w] == least && w < way ? w : way;
    set.worth = last_use[way] == step ? NEVER : least;
    set.least = first + way;
    set.free = free;
}

// Gives rows to the new ids of one bucket that ask, in rounds, as `SetCache.place` says.
template <int POLICY>
static void place(const Cache& cache, int64_t step, int64_t spared, int64_t n, int64_t New::*row, BucketWork& work) {
    int64_t waiting = 0;
    for (int64_t i = 0; i < n; i++)
        if (work.news[i].asks) work.queue[waiting++] = {work.news[i].count, work.news[i].id, i};
    std::sort(work.queue, work.queue + waiting, [](const Ticket& a, const Ticket& b) {
        return a.count != b.count ? a.count > b.count : a.id < b.id;
    });
    const int64_t call = ++work.calls;
    while (waiting) {
        const int64_t round = ++work.rounds;
        const auto each_to_look_at = [&](int64_t i, const auto& then) {
            const Sets& sets = work.news[work.queue[i].which].sets;
            for (const int64_t s : {sets.first, sets.second})
                if (work.sets[s].looked != call) then(s * cache.ways, work.sets[s]);
        };
        for (int64_t i = 0; i < waiting; i++) {
            if (i + FEW_AHEAD < waiting)
                each_to_look_at(i + FEW_AHEAD, [&](int64_t first, const Set&) {
                    prefetch(cache.count + first, cache.ways);
                    prefetch(cache.last_use + first, cache.ways);
                });
            each_to_look_at(i, [&](int64_t first, Set& set) {
                look<POLICY>(cache, first, step, spared, work.worths, set);
                set.looked = call;
            });
        }
        int64_t left = 0;
        for (int64_t i = 0; i < waiting; i++) {
            const Ticket ticket = work.queue[i];
            New& one = work.news[ticket.which];
            Set &a = work.sets[one.sets.first], &b = work.sets[one.sets.second];
            const bool fills = a.free || b.free;
            if (!fills && a.worth == NEVER && b.worth == NEVER) continue;
            Set& set = (fills ? a.free >= b.free : a.worth <= b.worth) ? a : b;
            if (set.round != round) {
                set.round = round;
                set.served = 0;
                set.next = (&set == &a ? one.sets.first : one.sets.second) * cache.ways;
            }
            if (set.served >= (fills ? (set.free + 1) / 2 : 1)) {
                work.queue[left++] = ticket;
                continue;
            }
            set.served++;
            set.looked = 0;
            while (fills && cache.count[set.next] > 0) set.next++;  // those of this round are taken: they have counts
            const int64_t taken = fills ? set.next : set.least;
            one.evicts = !fills;
            one.*row = taken;
            cache.ids[taken] = one.id;
            cache.count[taken] = one.count;
            cache.last_use[taken] = step;
        }
        waiting = left;
    }
}

static void place(const Cache& cache, int64_t step, bool evict, int64_t n, int64_t New::*row, BucketWork& work) {
    switch (cache.policy) {
        case LFU: return place<LFU>(cache, step, evict ? NEVER : 0, n, row, work);
        case LRU: return place<LRU>(cache, step, evict ? NEVER : 0, n, row, work);
        case AGE: return place<AGE>(cache, step, evict ? NEVER : 0, n, row, work);
    }
}

struct Counters { int64_t admissions = 0, evictions = 0, refused = 0, forgotten = 0; };

// Counts the ids of a bucket that have rows, the b-th of those that are here; the others are `work.news` then, so many.
static int64_t use_rows(const IdMap& map, const Cache& cache, const Arrivals& arrivals, const Item* items, int64_t n, int64_t first_row, int64_t* rows, New* news) {
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = items[i].at;
        news[i] = {arrivals.ids[at], arrivals.counts[at], at, -1, -1, sets_of(items[i].hash, map.buckets, map.bucket_sets), false, false};
        prefetch_ids(cache, news[i].sets);
    }
    for (int64_t i = 0; i < n && !arrivals.fills; i++) {
        const int64_t row = news[i].row = find_in(cache, news[i].id, news[i].sets);
        if (row < 0) continue;
        __builtin_prefetch(cache.count + row, 1);
        __builtin_prefetch(cache.last_use + row, 1);
    }
    int64_t others = 0;
    for (int64_t i = 0; i < n; i++) {
        const New& one = news[i];
        rows[one.at] = one.row < 0 ? one.row : one.row + first_row;
        if (one.row < 0) {
            news[others++] = one;
        } else {
            cache.count[one.row] += one.count;
            cache.last_use[one.row] = arrivals.step;
        }
    }
    return others;
}

// Counts the new ids [n] of a bucket among its candidates; those that have a row now are none any more.
static void wait(const Cache& candidates, int64_t filler, const Arrivals& arrivals, int64_t n, BucketWork& work, Counters& counters) {
    for (int64_t i = 0; i < n; i++) {
        New& one = work.news[i];
        const int64_t at = one.candidate;
        one.asks = at < 0 && one.row < 0 && !arrivals.fills;
        if (at < 0 || (one.row < 0 && arrivals.fills)) continue;
        if (one.row >= 0) candidates.ids[at] = filler;
        candidates.count[at] = one.row >= 0 ? 0 : one.count;
        candidates.last_use[at] = one.row >= 0 ? UNUSED : arrivals.step;
    }
    place(candidates, arrivals.step, true, n, &New::candidate, work);
    for (int64_t i = 0; i < n; i++) counters.forgotten += work.news[i].asks && (work.news[i].evicts || work.news[i].candidate < 0);
}

// Does to a bucket, the b-th of those that are here, what `IdMap.observe` says; returns how many of its rows are fresh.
static int64_t observe_bucket(const IdMap& map, const Arrivals& arrivals, int64_t b, const Item* items, int64_t items_n, const Outcome& outcome, int64_t* fresh_rows, int64_t* fresh_ids, BucketWork& work, Counters& counters) {
    const int64_t rows_before = b * map.bucket_sets * map.rows.ways, first_row = rows_before + map.first * map.bucket_sets * map.rows.ways;
    const Cache rows = part_of(map.rows, map, b);
    const bool waits = map.candidates.ids;
    const int64_t n = use_rows(map, rows, arrivals, items, items_n, first_row, outcome.rows, work.news);
    const Cache candidates = waits ? part_of(map.candidates, map, b) : Cache{};
    for (int64_t i = 0; i < n && waits; i++) prefetch_ids(candidates, work.news[i].sets);
    for (int64_t i = 0; i < n; i++) {
        New& one = work.news[i];
        if (waits) one.candidate = find_in(candidates, one.id, one.sets);
        if (one.candidate >= 0) one.count += candidates.count[one.candidate];
        one.asks = arrivals.fills || (arrivals.admitted ? arrivals.admitted[one.at] : one.count >= map.after);
    }
    place(rows, arrivals.step, !arrivals.fills, n, &New::row, work);
    int64_t fresh = 0;
    for (int64_t i = 0; i < n; i++) {
        New& one = work.news[i];
        if (one.row < 0) {
            counters.refused += one.asks && !arrivals.fills;
            continue;
        }
        counters.evictions += one.evicts;
        map.admitted[rows_before + one.row] = arrivals.step;
        outcome.rows[one.at] = one.row + first_row;
        work.fresh[fresh++] = one.row;
        one.evicts = false;
    }
    counters.admissions += fresh;
    std::sort(work.fresh, work.fresh + fresh);
    for (int64_t i = 0; i < fresh; i++) fresh_rows[i] = work.fresh[i] + first_row, fresh_ids[i] = rows.ids[work.fresh[i]];
    if (waits) wait(candidates, map.fillers[b], arrivals, n, work, counters);
    return fresh;
}

// Returns how many rows are fresh, or -1 - the place of an id of a bucket that is not here.
int64_t observe(const IdMap& map, const Arrivals& arrivals, const Outcome& outcome, int threads) {
    const int64_t n = arrivals.n, ways = std::max(map.rows.ways, map.candidates.ways);
    if (n < FEW) threads = 1;
    const Divided divided = divide(arrivals.ids, n, map.buckets, threads);
    const int64_t *starts = divided.starts.get() + map.first, most = divided.largest;
    if (starts[0] > 0) return -1 - divided.items[0].at;
    if (starts[map.own] < n) return -1 - divided.items[starts[map.own]].at;
    const std::unique_ptr<New[]> news = room<New>(threads * most);
    const std::unique_ptr<Ticket[]> queues = room<Ticket>(threads * most);
    const std::unique_ptr<Set[]> sets = room<Set>(threads * map.bucket_sets);
    const std::unique_ptr<int64_t[]> worths = room<int64_t>(threads * ways), fresh = room<int64_t>(threads * most), sizes = room<int64_t>(map.own);
    int64_t admissions = 0, evictions = 0, refused = 0, forgotten = 0;
#pragma omp parallel num_threads(threads) reduction(+ : admissions, evictions, refused, forgotten)
    {
        const int64_t t = omp_get_thread_num();
        BucketWork work{news.get() + t * most, queues.get() + t * most, sets.get() + t * map.bucket_sets, worths.get() + t * ways, fresh.get() + t * most, 0, 0};
        std::fill(work.sets, work.sets + map.bucket_sets, Set{});
        Counters counters;
#pragma omp for schedule(dynamic, 4)
        for (int64_t b = 0; b < map.own; b++)
            sizes[b] = observe_bucket(map, arrivals, b, divided.items.get() + starts[b], starts[b + 1] - starts[b], outcome, outcome.fresh_rows + starts[b], outcome.fresh_ids + starts[b], work, counters);
        admissions = counters.admissions, evictions = counters.evictions, refused = counters.refused, forgotten = counters.forgotten;
    }
    const int64_t more[] = {admissions, evictions, refused, forgotten};
    for (int c = 0; c < 4; c++) outcome.counters[c] += more[c];
    int64_t total = 0;
    for (int64_t b = 0; b < map.own; total += sizes[b++]) {
        std::copy(outcome.fresh_rows + starts[b], outcome.fresh_rows + starts[b] + sizes[b], outcome.fresh_rows + total);
        std::copy(outcome.fresh_ids + starts[b], outcome.fresh_ids + starts[b] + sizes[b], outcome.fresh_ids + total);
    }
    return total;
}

}  // namespace INSTRUCTIONS
