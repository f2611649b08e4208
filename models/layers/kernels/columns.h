// An array of columns: plain C, which `columns.py` mirrors.
#pragma once
#include <cstdint>

// An array [rows, columns], fp32 or bf16. live: [rows], or null: all rows count in moments.
struct Columns {
    const void* values;
    const bool* live;
    int64_t rows, columns;
    int32_t bf16;
};
