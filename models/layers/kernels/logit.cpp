// A logit is a product with a vector, in fp32 whatever the array's precision; its gradients are one pass.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "columns.h"

namespace INSTRUCTIONS {

#include "lanes.h"
#include "chunks.h"

template <class T> static void logit_forward_of(const Columns& x, const float* weight, float bias, float* logits, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < x.rows; row++) {
        const T* from = (const T*)x.values + row * x.columns;
        Lanes sums[4] = {};
        for (int64_t d = 0, i = 0; d < x.columns; d += LANES, i++) sums[i % 4] += load(from + d, x.columns - d) * load(weight + d, x.columns - d);
        logits[row] = total(sums[0] + sums[1] + (sums[2] + sums[3])) + bias;
    }
}

template <class T> static void logit_backward_of(const Columns& x, const float* weight, const float* gradient, T* of_x, float* of_weight, int threads) {
    const T* values = (const T*)x.values;
    sum_chunks<1>(x, of_weight, threads, [&](int64_t first, int64_t last, int64_t d, int64_t n, Lanes* found) {
        const Lanes by = load(weight + d, n);
        for (int64_t row = first; row < last; row++) {
            const int64_t at = row * x.columns + d;
            found[0] += gradient[row] * load(values + at, n);
            store(of_x + at, gradient[row] * by, n);
        }
    });
}

void logit_forward(const Columns& x, const float* weight, float bias, float* logits, int threads) {
    (x.bf16 ? logit_forward_of<Bf16> : logit_forward_of<float>)(x, weight, bias, logits, threads);
}

void logit_backward(const Columns& x, const float* weight, const float* gradient, void* of_x, float* of_weight, int threads) {
    x.bf16 ? logit_backward_of(x, weight, gradient, (Bf16*)of_x, of_weight, threads) : logit_backward_of(x, weight, gradient, (float*)of_x, of_weight, threads);
}

}  // namespace INSTRUCTIONS
