// The cells of a GRU, a step at a time: what is elementwise after the step's products, and its gradients. `recurrent.py` has the formulas.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "recurrent.h"

namespace INSTRUCTIONS {

#include "lanes.h"

constexpr int64_t WORTH_SHARING = 1 << 14;  // numbers of a step that threads share

template <class Part> static void each_row(const Cells& cells, int64_t rows, int threads, const Part& part) {
#pragma omp parallel for num_threads(threads) schedule(static) if (rows * cells.hidden >= WORTH_SHARING)
    for (int64_t row = 0; row < rows; row++) part(row);
}

static inline Lanes moved_by(const Cells& cells, int64_t position, Lanes gate) {
    if (!cells.attention) return gate;
    return cells.has_update ? gate * cells.attention[position] : all(cells.attention[position]);
}

// A step of `rows` positions from `first` on: gates and candidates are what is before their sigmoid and tanh, and then what is after
// it; candidates lack r * of_states. before and after are states [rows, hidden].
void cells_forward(const Cells& cells, int64_t first, int64_t rows, const float* before, float* after, int threads) {
    const int64_t hidden = cells.hidden, gates = cells.has_update ? 2 * hidden : hidden;
    each_row(cells, rows, threads, [&](int64_t row) {
        const int64_t position = first + row;
        float *r_of = cells.gates + position * gates, *u_of = r_of + hidden;
        for (int64_t d = 0; d < hidden; d += LANES) {
            const int64_t n = hidden - d, at = position * hidden + d;
            const Lanes r = sigmoid(load(r_of + d, n)), u = cells.has_update ? sigmoid(load(u_of + d, n)) : Lanes{};
            const Lanes exponent = load(cells.candidates + at, n) + r * load(cells.of_states + at, n);
            const Lanes candidate = 2.0f * sigmoid(2.0f * exponent) - 1.0f, state = load(before + row * hidden + d, n);
            store(r_of + d, r, n);
            if (cells.has_update) store(u_of + d, u, n);
            store(cells.candidates + at, candidate, n);
            store(after + row * hidden + d, state + moved_by(cells, position, u) * (candidate - state), n);
        }
    });
}

// The gradients of that step, gradient [rows, hidden] being that of its states but for what later steps add: of_states [rows, blocks *
// hidden] of U h_{t-1} in the order r, h~, u; of_candidates [rows, hidden] of W^h i_t; of_attention [rows] or null. later [rows, hidden]: of
// the states by way of later steps, and then of those before by way of (1 - z) h_{t-1}.
void cells_backward(const Cells& cells, int64_t first, int64_t rows, const float* before, const float* gradient, float* later, float* of_states, float* of_candidates, float* of_attention, int threads) {
    const int64_t hidden = cells.hidden, gates = cells.has_update ? 2 * hidden : hidden;
    each_row(cells, rows, threads, [&](int64_t row) {
        const int64_t position = first + row;
        const float *r_of = cells.gates + position * gates, *u_of = r_of + hidden;
        float *of_r = of_states + row * (gates + hidden), *of_h = of_r + hidden, *of_u = of_h + hidden;
        Lanes sum = {};
        for (int64_t d = 0; d < hidden; d += LANES) {
            const int64_t n = hidden - d, at = position * hidden + d, here = row * hidden + d;
            const Lanes r = load(r_of + d, n), u = cells.has_update ? load(u_of + d, n) : all(1.0f), z = moved_by(cells, position, u);
            const Lanes candidate = load(cells.candidates + at, n), of_state = load(gradient + here, n) + load(later + here, n);
            const Lanes of_candidate = of_state * z * (1.0f - candidate * candidate), change = of_state * (candidate - load(before + here, n));
            store(of_candidates + here, of_candidate, n);
            store(of_r + d, of_candidate * load(cells.of_states + at, n) * r * (1.0f - r), n);
            store(of_h + d, of_candidate * r, n);
            if (cells.has_update) store(of_u + d, change * z * (1.0f - u), n);
            store(later + here, of_state * (1.0f - z), n);
            sum += change * u;
        }
        if (of_attention) of_attention[row] = total(sum);
    });
}

}  // namespace INSTRUCTIONS
