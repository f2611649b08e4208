// What the cells of a GRU are computed of: plain C, which `recurrent.py` mirrors.
#pragma once
#include <cstdint>

// Arrays over all positions, [positions, hidden] fp32, but for gates: [positions, hidden or 2 hidden], r and, where there is one, u.
// attention: [positions] or null.
struct Cells {
    float *gates, *candidates;
    const float *of_states, *attention;
    int64_t hidden;
    int32_t has_update;
};
