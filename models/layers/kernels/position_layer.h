// A linear layer over positions of rows, W x + b, where x is made of what came before it: of pairs, or by Dice.
#pragma once
#include <cstdint>

#include "dice.h"

struct PositionLayer {
    const int64_t* offsets;  // [rows + 1]: of rows' positions
    int64_t rows;
    int64_t in, out;        // columns
    const float* weight;    // W^T [in, out in whole lanes]
    const float* turned;    // W [out, in in whole lanes]
    const float* bias;      // [out], of pairs [rows, out]
    // x = [k; k * q]: k [positions, in / 2], q [rows, in / 2]; or null
    const float *values, *vectors;
    // x = Dice(s): s [positions, in], fp32 or bf16, and [in] each
    const void* before;
    int32_t before_bf16;
    DiceOf dice;
    int32_t by_bf16;  // whether products may round their factors to bf16
};

// What backward starts from: gradient + level + slope * s, where s are the layer's results [positions, out].
struct PositionGradient {
    const void *results, *gradient;  // fp32, or bf16
    int32_t bf16;
    const float *level, *slope;  // [out], or null: 0
};

// What backward fills. Numbers of columns are sums over positions.
struct PositionGradients {
    float* of_weight;  // [out in whole lanes, in in whole lanes]
    float* of_bias;    // as bias
    float *of_values, *of_vectors;
    void* of_before;   // for given moments
    float* of_dice;    // [3, in], as of `dice_sums`
};
