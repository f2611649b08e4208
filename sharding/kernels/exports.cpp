// The kernel's entry points: they look at ids, then call the form that this processor has the instructions for.
#include "fresh.h"
#include "ids.h"
#include "rows.h"
#include "levels.h"
#include "memory.h"

namespace {

// Returns the batch without offsets, where they only say that every bag has one id.
Batch plainest(Batch batch) {
    if (!batch.offsets) return batch;
    int64_t differs = 0;
    for (int64_t i = 0; i <= batch.features * batch.bags; i++) differs |= batch.offsets[i] ^ i;
    if (!differs) batch.offsets = nullptr;
    return batch;
}

// Returns the place of the first id that its table has no row for, or -1.
int64_t astray(const Table* tables, const Feature* features, const Batch& batch) {
    for (int64_t f = 0; f < batch.features; f++) {
        const uint64_t rows = (uint64_t)tables[features[f].table].rows;
        const int64_t first = batch.offsets ? batch.offsets[f * batch.bags] : f * batch.bags;
        const int64_t last = batch.offsets ? batch.offsets[(f + 1) * batch.bags] : (f + 1) * batch.bags;
        uint64_t bad = 0;
        for (int64_t i = first; i < last; i++) bad |= (uint64_t)((uint64_t)batch.ids[i] >= rows);
        if (!bad) continue;
        for (int64_t i = first; i < last; i++)
            if ((uint64_t)batch.ids[i] >= rows) return i;
    }
    return -1;
}

thread_local int64_t short_of = 0;

// Does what returns nothing; returns -1, or NO_MEMORY.
template <typename Call>
int64_t run(const Call& call) {
    return unless_short(short_of, [&] {
        call();
        return (int64_t)-1;
    });
}

}  // namespace

extern "C" {

// Returns how many bytes the last call of this thread that returned NO_MEMORY had asked for, 0 where nobody knows.
int64_t kernel_short_of() { return short_of; }

// Each returns the place of an id that is astray, -1 where none is.
int64_t rows_pool(const Table* tables, const Feature* features, const Batch* batch, float* out, int32_t threads) {
    const int64_t bad = astray(tables, features, *batch);
    return bad >= 0 ? bad : run([&] { FORM(pool(tables, features, plainest(*batch), out, threads)); });
}

int64_t rows_update(const Table* tables, int64_t count, const Feature* features, const Batch* batch, const float* gradient, float factor, float loss_weight, int32_t threads) {
    const int64_t bad = astray(tables, features, *batch);
    return bad >= 0 ? bad : run([&] { FORM(update(tables, count, features, plainest(*batch), gradient, {factor, loss_weight}, threads)); });
}

// Returns how many rows were found, or -1 - the place of an id that is astray.
int64_t rows_sum(const Table* tables, int64_t count, int64_t t, const Feature* features, const Batch* batch, const float* gradient, int64_t* rows, float* sums) {
    const int64_t bad = astray(tables, features, *batch);
    return bad >= 0 ? -1 - bad : unless_short(short_of, [&] { return FORM(sum(tables, count, t, features, plainest(*batch), gradient, rows, sums)); });
}

int64_t rows_update_all(const Table* table, const float* gradient, int64_t stride, int64_t named, float factor, float loss_weight, int32_t threads) {
    return run([&] { FORM(update_all(*table, gradient, stride, named, {factor, loss_weight}, threads)); });
}

int64_t ids_distinct(int64_t buckets, const int64_t* ids, const int64_t* times, int64_t n, int64_t* found, int64_t* counts, int64_t* which, int64_t* starts, int32_t threads) {
    return unless_short(short_of, [&] { return FORM(distinct(buckets, ids, times, n, found, counts, which, starts, threads)); });
}

int64_t ids_find(const IdMap* map, const int64_t* ids, int64_t n, int64_t* rows, int32_t threads) {
    return FORM(find(*map, ids, n, rows, threads));
}

int64_t ids_observe(const IdMap* map, const Arrivals* arrivals, const Outcome* outcome, int32_t threads) {
    return unless_short(short_of, [&] { return FORM(observe(*map, *arrivals, *outcome, threads)); });
}

int64_t fresh_draw(const Draw* of, const int64_t* ids, int64_t n, float* values, int32_t threads) {
    return run([&] { FORM(draw(*of, ids, n, values, threads)); });
}

int64_t fresh_renew(const Fresh* fresh, int32_t threads) {
    return run([&] { FORM(renew(*fresh, threads)); });
}
}
