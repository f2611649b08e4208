// What Dice is computed of: plain C, which `library.py` mirrors.
#pragma once
#include <cstdint>

// An array [rows, columns], fp32 or bf16. live: [rows], or null: all rows count in moments.
struct Columns {
    const void* values;
    const bool* live;
    int64_t rows, columns;
    int32_t bf16;
};

// Of each column: E[s], 1 / sqrt(Var[s] + eps) and alpha.
struct DiceOf { const float *mean, *scale, *alpha; };
