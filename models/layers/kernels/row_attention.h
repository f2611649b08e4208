// Attention within rows: plain C, which `row_attention.py` mirrors.
#pragma once
#include <cstdint>

// query, key, value [positions, columns], fp32 or bf16; a row's positions are [offsets[row], offsets[row + 1]), and a head has columns / heads
// columns. causal: whether a position attends to those of its row up to itself, and not to all.
struct Rows {
    const void *query, *key, *value;
    const int64_t* offsets;
    int64_t rows, columns, heads;
    float scale;
    int32_t causal, bf16;
};
