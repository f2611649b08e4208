// Positions beside a vector of their row: plain C, which `pairs.py` mirrors.
#pragma once
#include <cstdint>

// values [T, columns] fp32 of positions, of which those in [first, last) are looked at; vectors [B, columns] fp32 of rows; row [T],
// ascending; offsets [B + 1] -> [T].
struct Pairs {
    const float *values, *vectors;
    const int64_t *row, *offsets;
    int64_t columns, first, last;
};
