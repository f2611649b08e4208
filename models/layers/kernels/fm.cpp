// An FM's terms and an MLP's columns are read off fields in one pass, and their gradients become the fields' in another.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "fm.h"

namespace INSTRUCTIONS {

#include "lanes.h"

template <class T> static void fm_forward_of(const FmFields& x, float* totals, float* pairs, T* beside, int threads) {
    const int64_t width = x.fields * x.columns;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < x.rows; row++) {
        const float* fields = x.field + row * x.row_stride;
        float* total = totals + row * (1 + x.columns);
        T* to = beside ? beside + row * (width + x.dense_columns) : nullptr;
        total[0] = 0;
        for (int64_t f = 0; f < x.fields; f++) total[0] += fields[f * x.field_stride];
        for (int64_t d = 0; d < x.columns; d += LANES) {
            const int64_t n = x.columns - d;
            Lanes sum{}, squares{};
            for (int64_t f = 0; f < x.fields; f++) {
                const Lanes v = load(fields + f * x.field_stride + 1 + d, n);
                sum += v;
                squares += v * v;
                if (to) store(to + f * x.columns + d, v, n);
            }
            store(total + 1 + d, sum, n);
            store(pairs + row * x.columns + d, 0.5f * (sum * sum - squares), n);
        }
        for (int64_t d = 0; to && d < x.dense_columns; d += LANES)
            store(to + width + d, load(x.dense + row * x.dense_stride + d, x.dense_columns - d), x.dense_columns - d);
    }
}

template <class T> static void fm_backward_of(const FmFields& x, const float* totals, const FmGradients& of, const T* of_beside, float* of_field, int threads) {
    const int64_t width = x.fields * x.columns;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < x.rows; row++) {
        const float *fields = x.field + row * x.row_stride, *total = totals + row * (1 + x.columns);
        const T* deep = of_beside ? of_beside + row * (width + x.dense_columns) : nullptr;
        float* to = of_field + row * x.row_stride;
        for (int64_t f = 0; f < x.fields; f++) to[f * x.field_stride] = of.first ? of.first[row] : 0;
        for (int64_t d = 0; d < x.columns; d += LANES) {
            const int64_t n = x.columns - d;
            const Lanes sum = load(total + 1 + d, n), by = of.pairs ? load(of.pairs + row * x.columns + d, n) : Lanes{};
            for (int64_t f = 0; f < x.fields; f++) {
                const int64_t at = f * x.field_stride + 1 + d;
                const Lanes rest = sum - load(fields + at, n);  // d pairs / d v_i = sum_j v_j - v_i
                store(to + at, (deep ? load(deep + f * x.columns + d, n) : Lanes{}) + rest * by, n);
            }
        }
    }
}

void fm_forward(const FmFields& x, float* totals, float* pairs, void* beside, bool bf16, int threads) {
    bf16 ? fm_forward_of(x, totals, pairs, (Bf16*)beside, threads) : fm_forward_of(x, totals, pairs, (float*)beside, threads);
}

void fm_backward(const FmFields& x, const float* totals, const FmGradients& of, bool bf16, float* of_field, int threads) {
    bf16 ? fm_backward_of(x, totals, of, (const Bf16*)of.beside, of_field, threads) : fm_backward_of(x, totals, of, (const float*)of.beside, of_field, threads);
}

}  // namespace INSTRUCTIONS
