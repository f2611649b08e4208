// Attention over pairs of fields, sixteen rows at a time: no pair outlives the loop that it is made in. `pair_attention.py` has the formulas.
//
// The parameters' gradients are added up by chunks of rows, and these in their order, so that they are the same for any number of threads.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "attention.h"

namespace INSTRUCTIONS {

#include "lanes.h"

constexpr int64_t CHUNK = 8;     // blocks of LANES rows
constexpr int64_t TOGETHER = 8;  // pairs whose gradients of the weight are added at once

static inline int64_t blocks_of(const Attention& of) { return (of.rows + LANES - 1) / LANES; }

// Reads rows from `first` on of an array, [numbers], of which there are `count`: to[i] has number i of each row, 0 beyond the last.
static void turn(const float* from, int64_t stride, int64_t count, int64_t numbers, Lanes* to) {
    for (int64_t i = 0; i < numbers; i++) {
        Lanes lanes = {};
        for (int64_t row = 0; row < count; row++) lanes[row] = from[row * stride + i];
        to[i] = lanes;
    }
}

static void turn_back(const Lanes* from, int64_t count, int64_t numbers, float* to, int64_t stride) {
    for (int64_t row = 0; row < count; row++)
        for (int64_t i = 0; i < numbers; i++) to[row * stride + i] = from[i][row];
}

static void read_factors(const Attention& of, int64_t block, int64_t count, Lanes* to) {
    for (int64_t f = 0; f < of.fields; f++)
        turn(of.factors + block * LANES * of.row_stride + f * of.field_stride, of.row_stride, count, of.columns, to + f * of.columns);
}

// found[i] = start[i] + sum over j of factors[i, j] x[j], of N numbers i; factors lie `step` apart by i and `stride` by j.
template <int N> static inline void product(const float* factors, int64_t step, int64_t stride, int64_t n, const Lanes* x, Lanes* found) {
    Lanes sums[N];
    for (int i = 0; i < N; i++) sums[i] = found[i];
    for (int64_t j = 0; j < n; j++)
        for (int i = 0; i < N; i++) sums[i] += factors[i * step + j * stride] * x[j];
    for (int i = 0; i < N; i++) found[i] = sums[i];
}

static inline void add_product(const float* factors, int64_t rows, int64_t step, int64_t stride, int64_t n, const Lanes* x, Lanes* found) {
    int64_t i = 0;
    for (; i + 8 <= rows; i += 8) product<8>(factors + i * step, step, stride, n, x, found + i);
    for (; i < rows; i++) product<1>(factors + i * step, step, stride, n, x, found + i);
}

static inline void hidden_of(const Attention& of, const Lanes* pair, Lanes* hidden) {
    for (int64_t a = 0; a < of.units; a++) hidden[a] = all(of.bias[a]);
    add_product(of.weight, of.units, of.columns, 1, of.columns, pair, hidden);
}

// pooled [rows, columns], and each pair's weight [blocks, pairs, LANES].
void attention_forward(const Attention& of, float* pooled, float* weights, int threads) {
    const int64_t pairs = of.fields * (of.fields - 1) / 2, columns = of.columns;
#pragma omp parallel num_threads(threads)
    {
        std::vector<Lanes> v(of.fields * columns), hidden(of.units), pair(columns), sums(columns);
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks_of(of); block++) {
            const int64_t count = std::min(LANES, of.rows - block * LANES);
            float* weight = weights + block * pairs * LANES;
            read_factors(of, block, count, v.data());
            Lanes largest = all(-3.4e38f), whole = {};
            for (int64_t i = 0, at = 0; i < of.fields; i++)
                for (int64_t j = i + 1; j < of.fields; j++, at++) {
                    for (int64_t d = 0; d < columns; d++) pair[d] = v[i * columns + d] * v[j * columns + d];
                    hidden_of(of, pair.data(), hidden.data());
                    Lanes score = {};
                    for (int64_t a = 0; a < of.units; a++) score += hidden[a] < 0.0f ? Lanes{} : hidden[a] * of.score[a];
                    largest = score > largest ? score : largest;
                    store(weight + at * LANES, score);
                }
            for (int64_t at = 0; at < pairs; at++) {
                const Lanes share = exp(load(weight + at * LANES) - largest);
                whole += share;
                store(weight + at * LANES, share);
            }
            std::fill(sums.begin(), sums.end(), Lanes{});
            for (int64_t i = 0, at = 0; i < of.fields; i++)
                for (int64_t j = i + 1; j < of.fields; j++, at++) {
                    const Lanes share = load(weight + at * LANES) / whole;
                    store(weight + at * LANES, share);
                    for (int64_t d = 0; d < columns; d++) sums[d] += share * (v[i * columns + d] * v[j * columns + d]);
                }
            turn_back(sums.data(), count, columns, pooled + block * LANES * columns, columns);
        }
    }
}

// What a thread needs to find gradients: of a block's factors, and over a chunk of the parameters.
struct PairWork {
    std::vector<Lanes> v, of_v, gradient, hidden, of_pair, of_weight, of_bias, of_score, pairs, of_hidden;
    int64_t waiting = 0;

    explicit PairWork(const Attention& of)
        : v(of.fields * of.columns), of_v(v.size()), gradient(of.columns), hidden(of.units), of_pair(of.columns), of_weight(of.units * of.columns),
          of_bias(of.units), of_score(of.units), pairs(TOGETHER * of.columns), of_hidden(TOGETHER * of.units) {}

    // Adds what the pairs that wait give to N numbers of the weight's gradient, from unit a and column d on.
    template <int N> void add_waiting(const Attention& of, int64_t a, int64_t d) {
        Lanes sums[N], *to = &of_weight[a * of.columns + d];
        for (int i = 0; i < N; i++) sums[i] = to[i];
        for (int64_t k = 0; k < waiting; k++) {
            const Lanes of_unit = of_hidden[k * of.units + a];
            for (int i = 0; i < N; i++) sums[i] += of_unit * pairs[k * of.columns + d + i];
        }
        for (int i = 0; i < N; i++) to[i] = sums[i];
    }

    void add_waiting(const Attention& of) {
        for (int64_t a = 0; a < of.units; a++) {
            int64_t d = 0;
            for (; d + 8 <= of.columns; d += 8) add_waiting<8>(of, a, d);
            for (; d < of.columns; d++) add_waiting<1>(of, a, d);
        }
        waiting = 0;
    }

    // Adds the gradients of the pair of fields i and j; mean: of the gradients of all pairs' weights, by weight.
    void add_pair(const Attention& of, int64_t i, int64_t j, Lanes weight, Lanes mean) {
        const int64_t columns = of.columns;
        const Lanes *vi = &v[i * columns], *vj = &v[j * columns];
        Lanes *pair = &pairs[waiting * columns], *of_unit = &of_hidden[waiting * of.units], of_share = {};
        for (int64_t d = 0; d < columns; d++) {
            pair[d] = vi[d] * vj[d];
            of_share += gradient[d] * pair[d];
            of_pair[d] = weight * gradient[d];
        }
        const Lanes of_this = weight * (of_share - mean);
        hidden_of(of, pair, hidden.data());
        for (int64_t a = 0; a < of.units; a++) {
            const Lanes left = hidden[a] > 0.0f ? of_this : Lanes{};
            of_score[a] += left * hidden[a];
            of_unit[a] = left * of.score[a];
            of_bias[a] += of_unit[a];
        }
        add_product(of.weight, columns, 1, columns, of.units, of_unit, of_pair.data());
        for (int64_t d = 0; d < columns; d++) {
            of_v[i * columns + d] += of_pair[d] * vj[d];
            of_v[j * columns + d] += of_pair[d] * vi[d];
        }
        if (++waiting == TOGETHER) add_waiting(of);
    }

    void add_block(const Attention& of, int64_t block, const float* pooled, const float* weights, const float* gradients, float* of_factors) {
        const int64_t columns = of.columns, first = block * LANES, count = std::min(LANES, of.rows - first);
        read_factors(of, block, count, v.data());
        turn(pooled + first * columns, columns, count, columns, of_pair.data());
        turn(gradients + first * columns, columns, count, columns, gradient.data());
        Lanes mean = {};
        for (int64_t d = 0; d < columns; d++) mean += gradient[d] * of_pair[d];
        std::fill(of_v.begin(), of_v.end(), Lanes{});
        const float* weight = weights + block * (of.fields * (of.fields - 1) / 2) * LANES;
        for (int64_t i = 0; i < of.fields; i++)
            for (int64_t j = i + 1; j < of.fields; j++, weight += LANES) add_pair(of, i, j, load(weight), mean);
        add_waiting(of);
        turn_back(of_v.data(), count, of.fields * columns, of_factors + first * of.fields * columns, of.fields * columns);
    }
};

// By gradients [rows, columns] of pooled: of_factors [rows, fields, columns], and of_parameters: the weight's, the bias's and the score's.
void attention_backward(const Attention& of, const float* pooled, const float* weights, const float* gradients, float* of_factors, float* of_parameters, int threads) {
    const int64_t chunks = (blocks_of(of) + CHUNK - 1) / CHUNK, numbers = of.units * (of.columns + 2);
    std::vector<float> of_chunk(chunks * numbers);
#pragma omp parallel num_threads(threads)
    {
        PairWork work(of);
        std::vector<Lanes>* const found[] = {&work.of_weight, &work.of_bias, &work.of_score};
#pragma omp for schedule(static)
        for (int64_t c = 0; c < chunks; c++) {
            for (auto* lanes : found) std::fill(lanes->begin(), lanes->end(), Lanes{});
            for (int64_t block = c * CHUNK; block < std::min(blocks_of(of), (c + 1) * CHUNK); block++)
                work.add_block(of, block, pooled, weights, gradients, of_factors);
            float* to = &of_chunk[c * numbers];
            for (auto* lanes : found)
                for (const Lanes& sum : *lanes) *to++ = total(sum);
        }
    }
    for (int64_t i = 0; i < numbers; i++) {
        double sum = 0;
        for (int64_t c = 0; c < chunks; c++) sum += of_chunk[c * numbers + i];
        of_parameters[i] = (float)sum;
    }
}

}  // namespace INSTRUCTIONS
