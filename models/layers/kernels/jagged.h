// Positions of rows that are as long as they are: plain C, which `jagged.py` mirrors.
#pragma once
#include <cstdint>

// values [T, columns], fp32 or bf16, of rows' positions; weights [T] fp32, or null: 1 each; offsets [rows + 1] -> [T].
struct Positions {
    const void* values;
    const float* weights;
    const int64_t* offsets;
    int64_t rows, columns;
    int32_t bf16;
};
