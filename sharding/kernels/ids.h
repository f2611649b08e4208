// A set-associative cache of ids, as `dynamic/set_cache.py` has it: rows in sets of `ways`, sets in buckets.
#pragma once
#include <cstdint>

// What a row is worth: `worth_of_rows` of `dynamic/id_map.py`. age: -1 for none.
enum Policy : int32_t { LFU = 0, LRU = 1, AGE = 2 };

struct Cache {
    int64_t *ids, *count, *last_use;  // [rows]
    int64_t bucket_sets, ways;
    int32_t policy;
    int64_t age;
};
