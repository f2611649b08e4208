// Rows that ids get anew: what they start with.
#pragma once
#include <cstdint>

// First values are drawn uniformly from (-scale, scale) by (key, id, column); the first `zero_columns` are 0.
struct Draw {
    uint64_t key;
    int64_t columns, zero_columns;
    double scale;
};

// A tensor of a shard, of which a row has so many bytes.
struct Cleared { void* memory; int64_t bytes; };

// Fresh rows [n] of a shard. values: [n, stride] fp32, whose first `columns` are written to weight rows of `stored` numbers, fp32 or
// fp16; null: none are. cleared: [count], of which fresh rows become 0.
struct Fresh {
    const int64_t* rows;
    int64_t n;
    const float* values;
    int64_t stride, columns;
    void* weight;
    int64_t stored;
    int32_t half;
    const Cleared* cleared;
    int64_t count;
};
