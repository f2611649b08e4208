// Weighted sums of each row's positions, and their gradients: each row is one thread's.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "jagged.h"

namespace INSTRUCTIONS {

#include "lanes.h"

template <class T> static void jagged_sums_of(const Positions& x, T* sums, int threads) {
    const T* values = (const T*)x.values;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < x.rows; row++)
        for (int64_t d = 0; d < x.columns; d += LANES) {
            Lanes sum{};
            for (int64_t t = x.offsets[row]; t < x.offsets[row + 1]; t++) {
                const Lanes value = load(values + t * x.columns + d, x.columns - d);
                sum += x.weights ? x.weights[t] * value : value;
            }
            store(sums + row * x.columns + d, sum, x.columns - d);
        }
}

template <class T> static void jagged_gradients_of(const Positions& x, const T* gradient, T* of_values, float* of_weights, int threads) {
    const T* values = (const T*)x.values;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < x.rows; row++)
        for (int64_t t = x.offsets[row]; t < x.offsets[row + 1]; t++) {
            Lanes product{};
            for (int64_t d = 0; d < x.columns; d += LANES) {
                const Lanes g = load(gradient + row * x.columns + d, x.columns - d);
                product += g * load(values + t * x.columns + d, x.columns - d);
                store(of_values + t * x.columns + d, x.weights[t] * g, x.columns - d);
            }
            of_weights[t] = total(product);
        }
}

void jagged_sums(const Positions& x, void* sums, int threads) {
    x.bf16 ? jagged_sums_of(x, (Bf16*)sums, threads) : jagged_sums_of(x, (float*)sums, threads);
}

void jagged_gradients(const Positions& x, const void* gradient, void* of_values, float* of_weights, int threads) {
    x.bf16 ? jagged_gradients_of(x, (const Bf16*)gradient, (Bf16*)of_values, of_weights, threads)
           : jagged_gradients_of(x, (const float*)gradient, (float*)of_values, of_weights, threads);
}

}  // namespace INSTRUCTIONS
