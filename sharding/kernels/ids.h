// Ids of unbounded tables: which are distinct, which rows they have, and which they get.
#pragma once
#include <cstdint>

// What a row is worth, as `dynamic/worth.py` says.
enum Policy : int32_t { LFU = 0, LRU = 1, AGE = 2 };

// The columns of a set-associative cache, [rows] of the buckets that are here. age: -1 for none.
struct Cache {
    int64_t *ids, *count, *last_use;
    int64_t ways, age;
    int32_t policy;
};

// An id map has `own` of `buckets` buckets, from `first` on; all have `bucket_sets` sets.
struct IdMap {
    int64_t buckets, first, own, bucket_sets;
    Cache rows, candidates;  // candidates: without ids where nobody waits for a row
    int64_t* admitted;       // [rows]
    const int64_t* fillers;  // [own]: of each bucket an id of another one, which free rows have
    int64_t after;
};

// A step's distinct ids [n], and how often each occurred. admitted: those that may have a row, or null: that is for counts to
// say. fills: they get free rows only, and those that get none stay as they were.
struct Arrivals {
    const int64_t *ids, *counts;
    const bool* admitted;
    int64_t n, step;
    int32_t fills;
};

// fresh_rows, fresh_ids: room for n; counters: those of `IdCounters`, to be added to.
struct Outcome { int64_t *rows, *fresh_rows, *fresh_ids, *counters; };
