// Layer norm over the columns of [rows, columns]: plain C, which `residual_norm.py` mirrors.
#pragma once
#include <cstdint>

struct ResidualNorm {
    int64_t rows, columns;
    const float *weight, *bias;  // [columns]
    float eps;
};
