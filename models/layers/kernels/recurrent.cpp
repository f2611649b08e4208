// A GRU over packed sequences: a chunk of rows goes through all of its steps in a core's first caches. `models/layers/recurrent.py` has the formulas.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "recurrent.h"
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace INSTRUCTIONS {

#include "lanes.h"
#include "products.h"

constexpr int64_t CHUNK = 32;       // rows, a multiple of 2 TALL
constexpr int64_t MOST_PARTS = 32;  // of chunks; a part's sums are its own, added up in parts' order

static inline int64_t rows_of(const Recurrence& of, int64_t step) { return of.starts[step + 1] - of.starts[step]; }

// A thread's memory: rows of whole lanes, of which those that no position fills are 0. `sums` has blocks of hidden columns: U^h h_{t-1}, r,
// u and W^h i_t, or their gradients. U's blocks begin at the first, W's at the second.
struct RowChunk {
    const int64_t in, hidden, width;
    std::vector<float> inputs, before, sums, later, of_inputs;
    std::vector<uint32_t> work;  // for pairs of bf16

    RowChunk(const Recurrence& of)
        : in(whole_lanes(of.in)), hidden(whole_lanes(of.hidden)), width((of.has_update ? 4 : 3) * hidden),
          inputs(CHUNK * in), before(CHUNK * hidden), sums(CHUNK * width), later(CHUNK * hidden), of_inputs(CHUNK * in), work(CHUNK / 2 * (width + in + hidden)) {}

    int64_t blocks() const { return width - hidden; }

    void clear() {
        for (auto* x : {&inputs, &before, &sums, &later}) std::fill(x->begin(), x->end(), 0.0f);
    }
};

static inline int64_t whole_tiles(int64_t rows) { return (rows + 2 * TALL - 1) / (2 * TALL) * (2 * TALL); }

static inline void copy_rows(const float* from, int64_t rows, int64_t columns, float* to, int64_t to_row) {
    for (int64_t row = 0; row < rows; row++) std::memcpy(to + row * to_row, from + row * columns, columns * sizeof(float));
}

// The sums over positions of a part: gradients of W, U and bias.
struct CellSums {
    std::vector<float> weight, recurrent, bias;
};

// The products of a chunk's first rows, of numbers or of pairs of bf16.
template <class T> class CellProducts {
  public:
    CellProducts(const Recurrence& of) : of(of), in(whole_lanes(of.in)), hidden(whole_lanes(of.hidden)), blocks((of.has_update ? 3 : 2) * hidden) {
        const int64_t sizes[] = {blocks * in, blocks * hidden, in * blocks, hidden * blocks};
        for (int i = 0; i < 4 && NUMBERS<T> > 1; i++) memory[i].resize(taken(sizes[i], NUMBERS<T>) + blocks);
        weight = by_rows(of.weight, blocks, in, memory[0].data());
        recurrent = by_rows(of.recurrent, blocks, hidden, memory[1].data());
        weight_turned = by_rows(of.weight_turned, of.in, blocks, memory[2].data());
        recurrent_turned = by_rows(of.recurrent_turned, of.hidden, blocks, memory[3].data());
    }

    // Fills `chunk.sums`.
    void sums(RowChunk& chunk, int64_t rows) const {
        const int64_t width = chunk.width;
        float* sums = chunk.sums.data();
        const Factor<T> inputs{in_rows(chunk.inputs.data(), rows * in, work(chunk)), in / NUMBERS<T>, 1};
        product<false>(inputs, weight_turned, blocks, taken(of.in, NUMBERS<T>), sums + hidden, width, rows, blocks);
        const Factor<T> before{in_rows(chunk.before.data(), rows * hidden, work(chunk)), hidden / NUMBERS<T>, 1};
        product<false>(before, recurrent_turned, blocks, taken(of.hidden, NUMBERS<T>), sums, width, rows, hidden);
        product<true>(before, recurrent_turned + hidden, blocks, taken(of.hidden, NUMBERS<T>), sums + hidden, width, rows, blocks - hidden);
    }

    // By the gradients in `chunk.sums`: fills `chunk.of_inputs`, and adds to `chunk.later` and to those of W and U.
    void gradients(RowChunk& chunk, int64_t rows, CellSums& to) const {
        const int64_t width = chunk.width;
        const T* gradients = in_rows(chunk.sums.data(), rows * width, work(chunk));
        product<true>(Factor<T>{gradients, width / NUMBERS<T>, 1}, recurrent, hidden, blocks / NUMBERS<T>, chunk.later.data(), hidden, rows, hidden);
        product<false>(Factor<T>{gradients + hidden / NUMBERS<T>, width / NUMBERS<T>, 1}, weight, in, blocks / NUMBERS<T>, chunk.of_inputs.data(), in, rows, in);
        gradients = by_rows(chunk.sums.data(), rows, width, work(chunk));
        T* more = work(chunk) + CHUNK * width / NUMBERS<T>;
        product<true>(Factor<T>{gradients, 1, width}, by_rows(chunk.before.data(), rows, hidden, more), hidden, rows / NUMBERS<T>, to.recurrent.data(), hidden, blocks, hidden);
        product<true>(Factor<T>{gradients + hidden, 1, width}, by_rows(chunk.inputs.data(), rows, in, more), in, rows / NUMBERS<T>, to.weight.data(), in, blocks, in);
    }

  private:
    static T* work(RowChunk& chunk) { return (T*)chunk.work.data(); }

    const Recurrence& of;
    const int64_t in, hidden, blocks;
    std::vector<T> memory[4];
    const T *weight, *recurrent, *weight_turned, *recurrent_turned;
};

// Calls part(part, first, last, chunk) for each chunk of rows; those of a part, which are of all lengths, in order.
template <class Call> static int64_t each_chunk(const Recurrence& of, int threads, const Call& call) {
    const int64_t rows = of.steps ? rows_of(of, 0) : 0, chunks = (rows + CHUNK - 1) / CHUNK, parts = std::min(MOST_PARTS, chunks);
#pragma omp parallel num_threads(threads)
    {
        RowChunk chunk(of);
#pragma omp for schedule(dynamic)
        for (int64_t part = 0; part < parts; part++)
            for (int64_t c = part; c < chunks; c += parts) {
                chunk.clear();
                call(part, c * CHUNK, std::min(rows, (c + 1) * CHUNK), chunk);
            }
    }
    return parts;
}

// The update z by the gate u; U says whether there is one.
template <bool U> static inline Lanes moved_by(const Recurrence& of, int64_t position, Lanes u) {
    if (!U) return all(of.attention[position]);
    return of.attention ? u * of.attention[position] : u;
}

// Moves the states in `chunk.before`, those of positions from `position` on, by what their products are.
template <bool U, bool KEEP> static void move_states(const Recurrence& of, int64_t position, int64_t rows, RowChunk& chunk) {
    const int64_t hidden = of.hidden, block = chunk.hidden, candidate_at = (U ? 2 : 1) * block, kept_row = (U ? 4 : 3) * hidden;
    for (int64_t d = 0; d < hidden; d += LANES) {
        const int64_t n = hidden - d;
        const Lanes bias_r = load(of.bias + d), bias_u = load(of.bias + block + d), bias_candidate = load(of.bias + candidate_at + d);
        const float* sums = &chunk.sums[d];
        float *state = &chunk.before[d], *to = of.states + position * hidden + d, *kept = KEEP ? of.kept + position * kept_row + d : nullptr;
        for (int64_t row = 0; row < rows; row++, sums += chunk.width, state += block, to += hidden, kept += KEEP ? kept_row : 0) {
            const Lanes of_state = load(sums), r = sigmoid(load(sums + block) + bias_r), u = U ? sigmoid(load(sums + 2 * block) + bias_u) : Lanes{};
            const Lanes candidate = 2.0f * sigmoid(2.0f * (load(sums + block + candidate_at) + bias_candidate + r * of_state)) - 1.0f;
            const Lanes before = load(state), after = before + moved_by<U>(of, position + row, u) * (candidate - before);
            store(state, after);
            store(to, after, n);
            if (!KEEP) continue;
            store(kept, of_state, n);
            store(kept + hidden, r, n);
            if (U) store(kept + 2 * hidden, u, n);
            store(kept + (U ? 3 : 2) * hidden, candidate, n);
        }
    }
}

static void move_states(const Recurrence& of, int64_t position, int64_t rows, RowChunk& chunk) {
    if (of.has_update) return of.kept ? move_states<true, true>(of, position, rows, chunk) : move_states<true, false>(of, position, rows, chunk);
    of.kept ? move_states<false, true>(of, position, rows, chunk) : move_states<false, false>(of, position, rows, chunk);
}

template <class T> static void forward_by(const Recurrence& of, int threads) {
    const CellProducts<T> products(of);
    each_chunk(of, threads, [&](int64_t, int64_t first, int64_t last, RowChunk& chunk) {
        for (int64_t step = 0; step < of.steps && rows_of(of, step) > first; step++) {
            const int64_t rows = std::min(last, rows_of(of, step)) - first, position = of.starts[step] + first;
            copy_rows(of.inputs + position * of.in, rows, of.in, chunk.inputs.data(), chunk.in);
            products.sums(chunk, whole_tiles(rows));
            move_states(of, position, rows, chunk);
        }
    });
}

// Turns gradients of states, with what later steps add, into those of their products, and `chunk.later` into those of the states before by
// way of (1 - z) h_{t-1}; adds to that of the bias.
template <bool U> static void gradients_of(const Recurrence& of, const float* gradient, int64_t position, int64_t rows, float* of_attention, RowChunk& chunk, float* of_bias) {
    const int64_t hidden = of.hidden, block = chunk.hidden, candidate_at = (U ? 2 : 1) * block, kept_row = (U ? 4 : 3) * hidden;
    Lanes moves[CHUNK] = {};
    for (int64_t d = 0; d < hidden; d += LANES) {
        const int64_t n = hidden - d;
        const float *kept = of.kept + position * kept_row + d, *from = gradient + position * hidden + d, *before = &chunk.before[d];
        float *to = &chunk.sums[d], *later = &chunk.later[d];
        Lanes sum_r = load(of_bias + d), sum_u = load(of_bias + block + d), sum_candidate = load(of_bias + candidate_at + d);
        for (int64_t row = 0; row < rows; row++, kept += kept_row, from += hidden, before += block, to += chunk.width, later += block) {
            const Lanes r = load(kept + hidden, n), u = U ? load(kept + 2 * hidden, n) : all(1.0f), z = moved_by<U>(of, position + row, u);
            const Lanes candidate = load(kept + (U ? 3 : 2) * hidden, n), of_state = load(from, n) + load(later);
            const Lanes of_candidate = of_state * z * (1.0f - candidate * candidate), change = of_state * (candidate - load(before));
            const Lanes of_product = of_candidate * r, of_r = of_product * load(kept, n) * (1.0f - r), of_u = change * z * (1.0f - u);
            store(to, of_product);
            store(to + block, of_r);
            if (U) store(to + 2 * block, of_u);
            store(to + block + candidate_at, of_candidate);
            store(later, of_state * (1.0f - z));
            sum_r += of_r;
            sum_u += of_u;
            sum_candidate += of_candidate;
            moves[row] += change * u;
        }
        store(of_bias + d, sum_r);
        if (U) store(of_bias + block + d, sum_u);
        store(of_bias + candidate_at + d, sum_candidate);
    }
    for (int64_t row = 0; of_attention && row < rows; row++) of_attention[position + row] = total(moves[row]);
}

static void add_up(const std::vector<CellSums>& parts, int64_t count, std::vector<float> CellSums::* which, float* to, int64_t size) {
    std::fill(to, to + size, 0.0f);
    for (int64_t part = 0; part < count; part++)
        for (int64_t i = 0; i < size; i++) to[i] += (parts[part].*which)[i];
}

template <class T> static void backward_by(const Recurrence& of, const float* gradient, const RecurrenceGradients& to, int threads) {
    const CellProducts<T> products(of);
    const int64_t in = whole_lanes(of.in), hidden = whole_lanes(of.hidden), blocks = (of.has_update ? 3 : 2) * hidden;
    std::vector<CellSums> sums(MOST_PARTS);
    const int64_t parts = each_chunk(of, threads, [&](int64_t part, int64_t first, int64_t last, RowChunk& chunk) {
        if (sums[part].bias.empty()) sums[part] = {std::vector<float>(blocks * in), std::vector<float>(blocks * hidden), std::vector<float>(blocks)};
        for (int64_t step = of.steps; step-- > 0;) {
            if (rows_of(of, step) <= first) continue;
            const int64_t rows = std::min(last, rows_of(of, step)) - first, position = of.starts[step] + first;
            copy_rows(of.inputs + position * of.in, rows, of.in, chunk.inputs.data(), in);
            if (step) copy_rows(of.states + (of.starts[step - 1] + first) * of.hidden, rows, of.hidden, chunk.before.data(), hidden);
            else std::fill(chunk.before.begin(), chunk.before.end(), 0.0f);
            (of.has_update ? gradients_of<true> : gradients_of<false>)(of, gradient, position, rows, to.of_attention, chunk, sums[part].bias.data());
            products.gradients(chunk, whole_tiles(rows), sums[part]);
            for (int64_t row = 0; row < rows; row++)
                std::memcpy(to.of_inputs + (position + row) * of.in, &chunk.of_inputs[row * in], of.in * sizeof(float));
        }
    });
    add_up(sums, parts, &CellSums::weight, to.of_weight, blocks * in);
    add_up(sums, parts, &CellSums::recurrent, to.of_recurrent, blocks * hidden);
    add_up(sums, parts, &CellSums::bias, to.of_bias, blocks);
}

static inline bool by_pairs(const Recurrence& of) { return of.by_bf16 && multiplies_bf16(); }

void recurrence_forward(const Recurrence& of, int threads) { by_pairs(of) ? forward_by<Pair>(of, threads) : forward_by<float>(of, threads); }

void recurrence_backward(const Recurrence& of, const float* gradient, const RecurrenceGradients& to, int threads) {
    by_pairs(of) ? backward_by<Pair>(of, gradient, to, threads) : backward_by<float>(of, gradient, to, threads);
}

}  // namespace INSTRUCTIONS
