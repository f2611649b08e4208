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

constexpr int64_t SIDE = 4;  // positions that attend side by side: what they attend to is loaded once for all of them

// What a thread needs of one head at a time; of SIDE positions: xs [SIDE, width] their queries or gradients, and numbers [SIDE, blocks] of the
// positions that they attend to.
struct HeadWork {
    std::vector<float> keys, values, of_keys, of_values, xs, shares, gradients;

    void make_room(const Head& head) {
        xs.resize(SIDE * (head.width + LANES));
        for (auto* numbers : {&shares, &gradients}) numbers->assign(SIDE * head.blocks * LANES, 0.0f);
    }

    float* x(const Head& head, int64_t i) { return &xs[i * (head.width + LANES)]; }

    // Reads the vectors of `side` positions from `position` on; those of the others, up to SIDE, are 0.
    template <class T> void read(const Rows& of, const Head& head, const void* vectors, int64_t position, int64_t side, float factor) {
        for (int64_t i = 0; i < SIDE; i++)
            for (int64_t d = 0; d < head.width; d += LANES)
                store(x(head, i) + d, i < side ? load(at<T>(of, head, vectors, position + i) + d, head.width - d) * factor : Lanes{});
    }

    // The products of all xs with the first blocks of a turned array.
    void multiply(const Head& head, int64_t blocks, const std::vector<float>& turned, std::vector<float>& found) {
        const float *x0 = x(head, 0), *x1 = x(head, 1), *x2 = x(head, 2), *x3 = x(head, 3);
        for (int64_t b = 0; b < blocks; b++) {
            Lanes sums[SIDE] = {};
            for (int64_t d = 0; d < head.width; d++) {
                const Lanes of_block = load(&turned[(d * head.blocks + b) * LANES]);
                sums[0] += x0[d] * of_block;
                sums[1] += x1[d] * of_block;
                sums[2] += x2[d] * of_block;
                sums[3] += x3[d] * of_block;
            }
            for (int64_t i = 0; i < SIDE; i++) store(&found[(i * head.blocks + b) * LANES], sums[i]);
        }
    }

    // Adds all xs times numbers of positions to a turned array.
    void add(const Head& head, int64_t blocks, const std::vector<float>& numbers, std::vector<float>& turned) {
        const float *x0 = x(head, 0), *x1 = x(head, 1), *x2 = x(head, 2), *x3 = x(head, 3);
        for (int64_t b = 0; b < blocks; b++) {
            Lanes of_block[SIDE];
            for (int64_t i = 0; i < SIDE; i++) of_block[i] = load(&numbers[(i * head.blocks + b) * LANES]);
            for (int64_t d = 0; d < head.width; d++) {
                float* to = &turned[(d * head.blocks + b) * LANES];
                store(to, load(to) + x0[d] * of_block[0] + x1[d] * of_block[1] + x2[d] * of_block[2] + x3[d] * of_block[3]);
            }
        }
    }

    // For each of `side` positions the sum of the rows of values by its numbers, times its factor.
    template <class T> static void sum(const Rows& of, const Head& head, int64_t count, const std::vector<float>& numbers, const void* values, int64_t position, int64_t side, const float* factors, void* to) {
        const float* n0 = numbers.data();
        const int64_t apart = head.blocks * LANES;
        for (int64_t d = 0; d < head.width; d += LANES) {
            const int64_t n = head.width - d;
            const T* from = at<T>(of, head, values, 0) + d;
            Lanes sums[SIDE] = {};
            for (int64_t j = 0; j < count; j++) {
                const Lanes value = load(from + j * of.columns, n);
                sums[0] += n0[j] * value;
                sums[1] += n0[apart + j] * value;
                sums[2] += n0[2 * apart + j] * value;
                sums[3] += n0[3 * apart + j] * value;
            }
            for (int64_t i = 0; i < side; i++) store((T*)at<T>(of, head, to, position + i) + d, sums[i] * factors[i], n);
        }
    }

    template <class T> void forward(const Rows& of, const Head& head, void* attended, float* sums) {
        turn<T>(of, head, of.key, keys);
        make_room(head);
        for (int64_t first = 0; first < head.count; first += SIDE) {
            const int64_t side = std::min(SIDE, head.count - first), last = first + side - 1, blocks = blocks_seen(of, head, last);
            read<T>(of, head, of.query, first, side, of.scale);
            multiply(head, blocks, keys, shares);
            float factors[SIDE];
            for (int64_t i = 0; i < side; i++) {
                float* mine = &shares[i * head.blocks * LANES];
                Lanes highest = all(-3.4e38f), whole = {};
                for (int64_t b = 0; b < blocks; b++) {
                    const Lanes score = load(mine + b * LANES);
                    highest = (seen(of, head, first + i, b) & (score > highest)) ? score : highest;
                }
                float largest = highest[0];
                for (int l = 1; l < LANES; l++) largest = std::max(largest, highest[l]);
                for (int64_t b = 0; b < blocks; b++) {
                    const Lanes share = seen(of, head, first + i, b) ? exp(load(mine + b * LANES) - largest) : Lanes{};
                    store(mine + b * LANES, share);
                    whole += share;
                }
                const float norm = total(whole);
                sums[(head.first + first + i) * of.heads] = largest + std::log(norm);
                factors[i] = 1.0f / norm;
            }
            sum<T>(of, head, of.causal ? last + 1 : head.count, shares, of.value, first, side, factors, attended);
        }
    }

    template <class T> void backward(const Rows& of, const Head& head, const void* attended, const float* sums, const void* gradient, void* of_query, void* of_key, void* of_value) {
        turn<T>(of, head, of.key, keys);
        turn<T>(of, head, of.value, values);
        for (auto* turned : {&of_keys, &of_values}) turned->assign(keys.size(), 0.0f);
        make_room(head);
        for (int64_t first = 0; first < head.count; first += SIDE) {
            const int64_t side = std::min(SIDE, head.count - first), last = first + side - 1, blocks = blocks_seen(of, head, last);
            read<T>(of, head, of.query, first, side, of.scale);
            multiply(head, blocks, keys, shares);
            read<T>(of, head, gradient, first, side, 1.0f);
            multiply(head, blocks, values, gradients);
            for (int64_t i = 0; i < side; i++) {
                const T *g = at<T>(of, head, gradient, first + i), *y = at<T>(of, head, attended, first + i);
                float *share = &shares[i * head.blocks * LANES], *of_score = &gradients[i * head.blocks * LANES];
                Lanes by_share = {};  // the gradients of the shares, by share
                for (int64_t d = 0; d < head.width; d += LANES) by_share += load(g + d, head.width - d) * load(y + d, head.width - d);
                const float mean = total(by_share), sum_of = sums[(head.first + first + i) * of.heads];
                for (int64_t b = 0; b < blocks; b++) {
                    const Lanes found = seen(of, head, first + i, b) ? exp(load(share + b * LANES) - sum_of) : Lanes{};
                    store(share + b * LANES, found);
                    store(of_score + b * LANES, found * (load(of_score + b * LANES) - mean));
                }
            }
            for (int64_t i = side; i < SIDE; i++)  // nobody's, which add nothing
                for (auto* numbers : {&shares, &gradients}) std::fill_n(&(*numbers)[i * head.blocks * LANES], head.blocks * LANES, 0.0f);
            add(head, blocks, shares, of_values);
            read<T>(of, head, of.query, first, side, of.scale);
            add(head, blocks, gradients, of_keys);
            const float factors[SIDE] = {of.scale, of.scale, of.scale, of.scale};
            sum<T>(of, head, of.causal ? last + 1 : head.count, gradients, of.key, first, side, factors, of_query);
        }
        turn_back<T>(of, head, of_keys, of_key);
        turn_back<T>(of, head, of_values, of_value);
    }
};

template <class Part> static void each_head(const Rows& of, int threads, const Part& part) {
#pragma omp parallel num_threads(threads)
    {
        HeadWork work;
#pragma omp for schedule(dynamic, 16)
        for (int64_t row = 0; row < of.rows; row++)
            for (int64_t h = 0; h < of.heads; h++) part(work, head_of(of, row, h), h);
    }
}

// attended [positions, columns]; sums [positions, heads]: the logarithms of what the exponentials of scores add up to.
void rows_forward(const Rows& of, void* attended, float* sums, int threads) {
    each_head(of, threads, [&](HeadWork& work, const Head& head, int64_t h) {
        of.bf16 ? work.forward<Bf16>(of, head, attended, sums + h) : work.forward<float>(of, head, attended, sums + h);
    });
}

void rows_backward(const Rows& of, const void* attended, const float* sums, const void* gradient, void* of_query, void* of_key, void* of_value, int threads) {
    each_head(of, threads, [&](HeadWork& work, const Head& head, int64_t h) {
        if (of.bf16) work.backward<Bf16>(of, head, attended, sums + h, gradient, of_query, of_key, of_value);
        else work.backward<float>(of, head, attended, sums + h, gradient, of_query, of_key, of_value);
    });
}

}  // namespace INSTRUCTIONS
