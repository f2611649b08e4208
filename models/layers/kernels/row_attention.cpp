// Attention within rows: softmax(scale Q K^T) V of each row and head, whose scores outlive no position, backward neither.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "row_attention.h"

namespace INSTRUCTIONS {

#include "lanes.h"

// A head of a row: `count` positions from `first` on, columns from `column` on. turned arrays are [columns of a head, blocks of positions].
struct Head { int64_t first, count, column, width, blocks; };

static Head head_of(const Rows& of, int64_t row, int64_t head) {
    const int64_t first = of.offsets[row], count = of.offsets[row + 1] - first, width = of.columns / of.heads;
    return {first, count, head * width, width, (count + LANES - 1) / LANES};
}

// Which of a block's positions a position attends to: -1, else 0.
static inline Words seen(const Rows& of, const Head& head, int64_t position, int64_t block) {
    constexpr Words numbers = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return numbers < (int32_t)((of.causal ? position + 1 : head.count) - block * LANES);
}

static int64_t blocks_seen(const Rows& of, const Head& head, int64_t position) { return of.causal ? position / LANES + 1 : head.blocks; }

template <class T> static const T* at(const Rows& of, const Head& head, const void* values, int64_t position) {
    return (const T*)values + (head.first + position) * of.columns + head.column;
}

template <class T> static void turn(const Rows& of, const Head& head, const void* values, std::vector<float>& turned) {
    turned.assign(head.width * head.blocks * LANES, 0.0f);
    std::vector<float> row(head.width + LANES);
    for (int64_t j = 0; j < head.count; j++) {
        const T* from = at<T>(of, head, values, j);
        for (int64_t d = 0; d < head.width; d += LANES) store(&row[d], load(from + d, head.width - d));
        for (int64_t d = 0; d < head.width; d++) turned[d * head.blocks * LANES + j] = row[d];
    }
}

template <class T> static void turn_back(const Rows& of, const Head& head, const std::vector<float>& turned, void* values) {
    std::vector<float> row(head.width + LANES);
    for (int64_t j = 0; j < head.count; j++) {
        T* to = (T*)at<T>(of, head, values, j);
        for (int64_t d = 0; d < head.width; d++) row[d] = turned[d * head.blocks * LANES + j];
        for (int64_t d = 0; d < head.width; d += LANES) store(to + d, load(&row[d]), head.width - d);
    }
}

// What a thread needs of one head at a time; of a position: x [width] its query or gradient, numbers of the positions that it attends to.
struct Work {
    std::vector<float> keys, values, of_keys, of_values, x, shares, gradients;

    template <class T> void read(const T* from, int64_t width, float factor) {
        x.resize(width + LANES);
        for (int64_t d = 0; d < width; d += LANES) store(&x[d], load(from + d, width - d) * factor);
    }

    // The products of x with the first blocks of a turned array.
    void multiply(const Head& head, int64_t blocks, const std::vector<float>& turned, std::vector<float>& found) const {
        for (int64_t b = 0; b < blocks; b++) {
            const float* of_block = &turned[b * LANES];
            Lanes sum = {};
            for (int64_t d = 0; d < head.width; d++) sum += x[d] * load(of_block + d * head.blocks * LANES);
            store(&found[b * LANES], sum);
        }
    }

    // Adds x times numbers of positions to a turned array.
    void add(const Head& head, int64_t blocks, const std::vector<float>& numbers, std::vector<float>& turned) const {
        for (int64_t b = 0; b < blocks; b++) {
            const Lanes of_block = load(&numbers[b * LANES]);
            for (int64_t d = 0; d < head.width; d++) {
                float* to = &turned[(d * head.blocks + b) * LANES];
                store(to, load(to) + x[d] * of_block);
            }
        }
    }

    // The sum of the rows of values by numbers of positions.
    template <class T> static void sum(const Rows& of, const Head& head, int64_t count, const std::vector<float>& numbers, const void* values, float factor, T* to) {
        for (int64_t d = 0; d < head.width; d += LANES) {
            const int64_t n = head.width - d;
            const T* from = at<T>(of, head, values, 0) + d;
            Lanes sum = {};
            for (int64_t j = 0; j < count; j++) sum += numbers[j] * load(from + j * of.columns, n);
            store(to + d, sum * factor, n);
        }
    }

    template <class T> void forward(const Rows& of, const Head& head, void* attended, float* sums) {
        turn<T>(of, head, of.key, keys);
        shares.resize(head.blocks * LANES);
        for (int64_t i = 0; i < head.count; i++) {
            const int64_t blocks = blocks_seen(of, head, i);
            read(at<T>(of, head, of.query, i), head.width, of.scale);
            multiply(head, blocks, keys, shares);
            Lanes highest = all(-3.4e38f), whole = {};
            for (int64_t b = 0; b < blocks; b++) {
                const Lanes score = load(&shares[b * LANES]);
                highest = (seen(of, head, i, b) & (score > highest)) ? score : highest;
            }
            float largest = highest[0];
            for (int l = 1; l < LANES; l++) largest = std::max(largest, highest[l]);
            for (int64_t b = 0; b < blocks; b++) {
                const Lanes share = seen(of, head, i, b) ? exp(load(&shares[b * LANES]) - largest) : Lanes{};
                store(&shares[b * LANES], share);
                whole += share;
            }
            const float norm = total(whole);
            sums[(head.first + i) * of.heads] = largest + std::log(norm);
            sum(of, head, of.causal ? i + 1 : head.count, shares, of.value, 1.0f / norm, (T*)at<T>(of, head, attended, i));
        }
    }

    template <class T> void backward(const Rows& of, const Head& head, const void* attended, const float* sums, const void* gradient, void* of_query, void* of_key, void* of_value) {
        turn<T>(of, head, of.key, keys);
        turn<T>(of, head, of.value, values);
        for (auto* turned : {&of_keys, &of_values}) turned->assign(keys.size(), 0.0f);
        for (auto* numbers : {&shares, &gradients}) numbers->resize(head.blocks * LANES);
        for (int64_t i = 0; i < head.count; i++) {
            const int64_t blocks = blocks_seen(of, head, i);
            const T *g = at<T>(of, head, gradient, i), *y = at<T>(of, head, attended, i);
            read(at<T>(of, head, of.query, i), head.width, of.scale);
            multiply(head, blocks, keys, shares);
            read(g, head.width, 1.0f);
            multiply(head, blocks, values, gradients);
            Lanes by_share = {};  // the gradients of the shares, by share
            for (int64_t d = 0; d < head.width; d += LANES) by_share += load(g + d, head.width - d) * load(y + d, head.width - d);
            const float mean = total(by_share), sum_of = sums[(head.first + i) * of.heads];
            for (int64_t b = 0; b < blocks; b++) {
                const Lanes share = seen(of, head, i, b) ? exp(load(&shares[b * LANES]) - sum_of) : Lanes{};
                store(&shares[b * LANES], share);
                store(&gradients[b * LANES], share * (load(&gradients[b * LANES]) - mean));
            }
            add(head, blocks, shares, of_values);
            read(at<T>(of, head, of.query, i), head.width, of.scale);
            add(head, blocks, gradients, of_keys);
            sum(of, head, of.causal ? i + 1 : head.count, gradients, of.key, of.scale, (T*)at<T>(of, head, of_query, i));
        }
        turn_back<T>(of, head, of_keys, of_key);
        turn_back<T>(of, head, of_values, of_value);
    }
};

template <class Part> static void each_head(const Rows& of, int threads, const Part& part) {
#pragma omp parallel num_threads(threads)
    {
        Work work;
#pragma omp for schedule(dynamic, 16)
        for (int64_t row = 0; row < of.rows; row++)
            for (int64_t h = 0; h < of.heads; h++) part(work, head_of(of, row, h), h);
    }
}

// attended [positions, columns]; sums [positions, heads]: the logarithms of what the exponentials of scores add up to.
void rows_forward(const Rows& of, void* attended, float* sums, int threads) {
    each_head(of, threads, [&](Work& work, const Head& head, int64_t h) {
        of.bf16 ? work.forward<Bf16>(of, head, attended, sums + h) : work.forward<float>(of, head, attended, sums + h);
    });
}

void rows_backward(const Rows& of, const void* attended, const float* sums, const void* gradient, void* of_query, void* of_key, void* of_value, int threads) {
    each_head(of, threads, [&](Work& work, const Head& head, int64_t h) {
        if (of.bf16) work.backward<Bf16>(of, head, attended, sums + h, gradient, of_query, of_key, of_value);
        else work.backward<float>(of, head, attended, sums + h, gradient, of_query, of_key, of_value);
    });
}

}  // namespace INSTRUCTIONS
