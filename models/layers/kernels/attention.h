// Attention over pairs of fields: plain C, which `attention.py` mirrors.
#pragma once
#include <cstdint>

// Factors [rows, fields, columns], a row `row_stride` numbers after the one before and a field `field_stride`; the hidden layer's weight
// [units, columns] and bias [units], and the score of each unit; all fp32.
struct Attention {
    const float *factors, *weight, *bias, *score;
    int64_t rows, fields, columns, units, row_stride, field_stride;
};
