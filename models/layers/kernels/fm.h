// Fields as an FM reads them: plain C, which `fm.py` mirrors.
#pragma once
#include <cstdint>

// field [rows, fields, 1 + columns] fp32: first-order weight and factors; dense [rows, dense_columns] fp32. Strides are numbers.
struct FmFields {
    const float *field, *dense;
    int64_t rows, fields, columns, dense_columns, row_stride, field_stride, dense_stride;
};

// The gradients of what is read off fields, each of which may be null: of first-order sums [rows], of pairs [rows, columns], and
// of factors with dense columns behind them [rows, fields * columns + dense_columns], fp32 or bf16.
struct FmGradients {
    const float *first, *pairs;
    const void* beside;
};
