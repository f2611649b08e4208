// Dice and the moments that it goes by, each in one pass over [rows, columns]: `activations.py` has the formulas.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "dice.h"

namespace INSTRUCTIONS {

#include "lanes.h"
#include "chunks.h"

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
        const Lanes mean = load(dice.mean + d, n), scale = load(dice.scale + d, n), alpha = load(dice.alpha + d, n);
        const Lanes rest = 1.0f - alpha;
        for (int64_t at = first * x.columns + d; at < last * x.columns; at += x.columns) {
            const Lanes s = load(values + at, n), p = sigmoid((s - mean) * scale);
            store((T*)result + at, (alpha + p * rest) * s, n);
        }
    });
}

// What a given gradient makes of s for given moments is written in the pass that sums what the moments' gradients are made of.
template <class T> static void dice_sums_of(const Columns& x, const DiceOf& dice, const void* gradient, void* of_x, float* sums, int threads) {
    const T *values = (const T*)x.values, *gradients = (const T*)gradient;
    sum_chunks<3>(x, sums, threads, [&](int64_t first, int64_t last, int64_t d, int64_t n, Lanes* found) {
        const Lanes mean = load(dice.mean + d, n), scale = load(dice.scale + d, n), alpha = load(dice.alpha + d, n), rest = 1.0f - alpha;
        const Lanes by_exponent = rest * scale;
        for (int64_t at = first * x.columns + d; at < last * x.columns; at += x.columns) {
            const Lanes s = load(values + at, n), g = load(gradients + at, n), exponent = (s - mean) * scale, p = sigmoid(exponent);
            const Lanes of_alpha = g * (1.0f - p) * s, of_exponent = of_alpha * p;
            found[0] += of_alpha;
            found[1] += of_exponent;
            found[2] += of_exponent * exponent;
            store((T*)of_x + at, g * (alpha + p * rest) + of_exponent * by_exponent, n);
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
