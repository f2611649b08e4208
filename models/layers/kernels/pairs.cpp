// Positions beside a vector of their row: what an activation unit's first product is of, and its gradients.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "pairs.h"

namespace INSTRUCTIONS {

#include "lanes.h"

template <class T> static void pair_inputs_of(const Pairs& pairs, void* inputs, int threads) {
    const int64_t columns = pairs.columns;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t t = pairs.first; t < pairs.last; t++) {
        const float *k = pairs.values + t * columns, *q = pairs.vectors + pairs.row[t] * columns;
        T* to = (T*)inputs + (t - pairs.first) * 2 * columns;
        for (int64_t d = 0; d < columns; d += LANES) {
            const int64_t n = columns - d;
            const Lanes value = load(k + d, n);
            store(to + d, value, n);
            store(to + columns + d, value * load(q + d, n), n);
        }
    }
}

// A row's positions are one thread's, which goes on with the sum that is there: sums do not depend on where positions are cut.
template <class T> static void pair_gradients_of(const Pairs& pairs, const void* of_inputs, float* of_values, float* of_vectors, int threads) {
    if (pairs.first == pairs.last) return;
    const int64_t columns = pairs.columns, first_row = pairs.row[pairs.first], last_row = pairs.row[pairs.last - 1];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = first_row; row <= last_row; row++) {
        const int64_t first = std::max(pairs.first, pairs.offsets[row]), last = std::min(pairs.last, pairs.offsets[row + 1]);
        for (int64_t d = 0; d < columns; d += LANES) {
            const int64_t n = columns - d;
            const Lanes q = load(pairs.vectors + row * columns + d, n);
            Lanes sum = load(of_vectors + row * columns + d, n);
            for (int64_t t = first; t < last; t++) {
                const T* from = (const T*)of_inputs + (t - pairs.first) * 2 * columns + d;
                const Lanes of_product = load(from + columns, n);
                store(of_values + t * columns + d, load(from, n) + of_product * q, n);
                sum += of_product * load(pairs.values + t * columns + d, n);
            }
            store(of_vectors + row * columns + d, sum, n);
        }
    }
}

void pair_inputs(const Pairs& pairs, void* inputs, bool bf16, int threads) { (bf16 ? pair_inputs_of<Bf16> : pair_inputs_of<float>)(pairs, inputs, threads); }

void pair_gradients(const Pairs& pairs, const void* of_inputs, bool bf16, float* of_values, float* of_vectors, int threads) {
    (bf16 ? pair_gradients_of<Bf16> : pair_gradients_of<float>)(pairs, of_inputs, of_values, of_vectors, threads);
}

}  // namespace INSTRUCTIONS
