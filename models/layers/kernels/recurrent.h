// What a GRU over packed sequences is computed of: plain C, which `recurrent.py` mirrors.
#pragma once
#include <cstdint>

// Blocks of columns are whole lanes, H' for hidden and I' for inputs; those of W are r, u and h~, those of U h~, r and u, each but for AGRU's,
// which has no u. Arrays over positions have none of that: [positions, inputs], [positions, hidden] or [positions].
struct Recurrence {
    const int64_t* starts;  // [steps + 1]: of steps' positions, which are of the first rows
    int64_t steps, in, hidden;
    const float *weight, *recurrent;                // W [blocks H', I'], U [blocks H', H']
    const float *weight_turned, *recurrent_turned;  // W^T [inputs, blocks H'], U^T [hidden, blocks H']
    const float* bias;                              // [blocks H'], as W's
    const float *inputs, *attention;                // attention, or null
    int32_t has_update, by_bf16;                    // by_bf16: whether products may round their factors to bf16
    float* states;
    float* kept;  // [positions, 1 + blocks, hidden]: U^h h_{t-1}, r, u and h~; or null
};

// What backward fills.
struct RecurrenceGradients {
    float *of_inputs, *of_attention;              // of_attention, or null
    float *of_weight, *of_recurrent, *of_bias;  // as W, U and bias
};
