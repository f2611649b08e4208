// Layer norm of a sum, each way in one pass: y = (z - E[z]) / sqrt(Var[z] + eps) * weight + bias over a row's columns, z = x + added.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "columns.h"
#include "residual_norm.h"

namespace INSTRUCTIONS {

#include "lanes.h"
#include "chunks.h"

// The first n of them; the others are 0.
static inline Lanes first_of(Lanes lanes, int64_t n) {
    constexpr Words numbers = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return numbers < (int32_t)std::min(n, LANES) ? lanes : Lanes{};
}

template <class T> static void norm_forward_of(const ResidualNorm& of, const float* x, const T* added, float* z, float* moments, float* y, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < of.rows; row++) {
        const int64_t start = row * of.columns;
        Lanes sum{}, square{};
        for (int64_t d = 0; d < of.columns; d += LANES) {
            const int64_t n = of.columns - d;
            const Lanes both = load(x + start + d, n) + load(added + start + d, n);
            store(z + start + d, both, n);
            sum += both;
        }
        const float mean = total(sum) / of.columns;
        for (int64_t d = 0; d < of.columns; d += LANES) {
            const Lanes centred = first_of(load(z + start + d, of.columns - d) - mean, of.columns - d);
            square += centred * centred;
        }
        const float scale = 1.0f / std::sqrt(total(square) / of.columns + of.eps);
        for (int64_t d = 0; d < of.columns; d += LANES) {
            const int64_t n = of.columns - d;
            store(y + start + d, (load(z + start + d, n) - mean) * scale * load(of.weight + d, n) + load(of.bias + d, n), n);
        }
        moments[2 * row] = mean, moments[2 * row + 1] = scale;
    }
}

// What all columns of a row's gradient have in common: the means of g = gradient * weight, and of g times what it is normed to.
static void common_parts(const ResidualNorm& of, const float* z, const float* moments, const float* gradient, int64_t row, float* parts) {
    const int64_t start = row * of.columns;
    Lanes sum{}, by_normed{};
    for (int64_t d = 0; d < of.columns; d += LANES) {
        const int64_t n = of.columns - d;
        const Lanes g = load(gradient + start + d, n) * load(of.weight + d, n);
        sum += g;
        by_normed += g * (load(z + start + d, n) - moments[2 * row]);
    }
    parts[0] = total(sum) / of.columns, parts[1] = total(by_normed) * moments[2 * row + 1] / of.columns;
}

template <class T> static void norm_backward_of(const ResidualNorm& of, const float* z, const float* moments, const float* gradient, float* of_x, T* of_added, float* sums, int threads) {
    std::vector<float> parts(2 * of.rows);
    const Columns rows{z, nullptr, of.rows, of.columns, 0};
    sum_chunks<2>(rows, sums, threads, [&](int64_t first, int64_t last, int64_t d, int64_t n, Lanes* found) {
        if (d == 0)
            for (int64_t row = first; row < last; row++) common_parts(of, z, moments, gradient, row, &parts[2 * row]);
        const Lanes weight = load(of.weight + d, n);
        for (int64_t row = first; row < last; row++) {
            const int64_t at = row * of.columns + d;
            const float mean = moments[2 * row], scale = moments[2 * row + 1];
            const Lanes g = load(gradient + at, n), normed = (load(z + at, n) - mean) * scale;
            found[0] += g * normed;
            found[1] += g;
            const Lanes of_z = (g * weight - parts[2 * row] - normed * parts[2 * row + 1]) * scale;
            store(of_x + at, of_z, n);
            if (of_added) store(of_added + at, of_z, n);
        }
    });
}

void norm_forward(const ResidualNorm& of, const float* x, const void* added, bool bf16, float* z, float* moments, float* y, int threads) {
    bf16 ? norm_forward_of(of, x, (const Bf16*)added, z, moments, y, threads) : norm_forward_of(of, x, (const float*)added, z, moments, y, threads);
}

void norm_backward(const ResidualNorm& of, const float* z, const float* moments, const float* gradient, float* of_x, void* of_added, float* sums, int threads) {
    norm_backward_of(of, z, moments, gradient, of_x, (Bf16*)of_added, sums, threads);
}

}  // namespace INSTRUCTIONS
