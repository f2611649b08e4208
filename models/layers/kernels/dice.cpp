// Dice and the moments that it goes by, each in one pass over [rows, columns]: `activations.py` has the formulas.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "dice.h"

namespace INSTRUCTIONS {

#include "lanes.h"
#include "chunks.h"
#include "dice_terms.h"

template <class T> static void column_sums_of(const Columns& x, const float* centre, float* sums, int threads) {
    const T* values = (const T*)x.values;
    sum_chunks<2>(x, sums, threads, [&](int64_t first, int64_t last, int64_t d, int64_t n, Lanes* found) {
        const Lanes middle = load(centre + d, n);
        for (int64_t row = first; row < last; row++) {
            const Lanes shifted = counted(x, row, load(values + row * x.columns + d, n) - middle);
            found[0] += shifted;
            found[1] += shifted * shifted;
        }
    });
}

template <class T> static void dice_of(const Columns& x, const DiceOf& dice, void* result, int threads) {
    const T* values = (const T*)x.values;
    each_chunk(x, threads, [&](int64_t first, int64_t last, int64_t d, int64_t n) {
        const DiceTerms terms(dice, d, n);
        for (int64_t at = first * x.columns + d; at < last * x.columns; at += x.columns) {
            const Lanes s = load(values + at, n);
            store((T*)result + at, terms.result(s, terms.share(s)), n);
        }
    });
}

// What a given gradient makes of s for given moments is written in the pass that sums what the moments' gradients are made of.
template <class T> static void dice_sums_of(const Columns& x, const DiceOf& dice, const void* gradient, void* of_x, float* sums, int threads) {
    const T *values = (const T*)x.values, *gradients = (const T*)gradient;
    sum_chunks<3>(x, sums, threads, [&](int64_t first, int64_t last, int64_t d, int64_t n, Lanes* found) {
        const DiceTerms terms(dice, d, n);
        for (int64_t at = first * x.columns + d; at < last * x.columns; at += x.columns) {
            const Lanes s = load(values + at, n);
            store((T*)of_x + at, terms.gradient(s, terms.share(s), load(gradients + at, n), found), n);
        }
    });
}

template <class T> static void dice_moments_of(const Columns& x, const float* level, const float* slope, void* of_x, int threads) {
    const T* values = (const T*)x.values;
    each_chunk(x, threads, [&](int64_t first, int64_t last, int64_t d, int64_t n) {
        const Lanes of_sum = load(level + d, n), of_square = load(slope + d, n);
        for (int64_t row = first; row < last; row++) {
            T* to = (T*)of_x + row * x.columns + d;
            store(to, load(to, n) + counted(x, row, of_sum + of_square * load(values + row * x.columns + d, n)), n);
        }
    });
}

void column_sums(const Columns& x, const float* centre, float* sums, int threads) {
    (x.bf16 ? column_sums_of<Bf16> : column_sums_of<float>)(x, centre, sums, threads);
}

void dice(const Columns& x, const DiceOf& of, void* result, int threads) { (x.bf16 ? dice_of<Bf16> : dice_of<float>)(x, of, result, threads); }

void dice_sums(const Columns& x, const DiceOf& of, const void* gradient, void* of_x, float* sums, int threads) {
    (x.bf16 ? dice_sums_of<Bf16> : dice_sums_of<float>)(x, of, gradient, of_x, sums, threads);
}

void dice_moments(const Columns& x, const float* level, const float* slope, void* of_x, int threads) {
    (x.bf16 ? dice_moments_of<Bf16> : dice_moments_of<float>)(x, level, slope, of_x, threads);
}

}  // namespace INSTRUCTIONS
