// Linear layers over positions: what goes in is made, multiplied and summed up a chunk of positions at a time, in a core's first caches.
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "position_layer.h"
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace INSTRUCTIONS {

#include "lanes.h"
#include "products.h"
#include "dice_terms.h"

// Arrays of no positions may be null, those of columns are not.
static inline bool is_of_pairs(const PositionLayer& of) { return !of.dice.mean; }

constexpr int64_t CHUNK = 64;           // positions, a multiple of 2 TALL and of 2
constexpr int64_t PART_POSITIONS = 2048;  // at least; a part's sums are its own, added up in parts' order
constexpr int64_t MOST_PARTS = 64;

// Parts hold whole rows. They depend on the rows alone, so that sums are the same for any number of threads.
struct Parts {
    std::vector<int64_t> first_rows;

    explicit Parts(const PositionLayer& of) {
        const int64_t positions = of.offsets[of.rows], size = std::max(PART_POSITIONS, positions / MOST_PARTS + 1);
        for (int64_t at = 0; at < positions; at += size) {
            const int64_t row = std::lower_bound(of.offsets, of.offsets + of.rows, at) - of.offsets;
            if (first_rows.empty() || row > first_rows.back()) first_rows.push_back(row);
        }
        if (first_rows.empty()) first_rows.push_back(0);
        first_rows.front() = 0;
        first_rows.push_back(of.rows);
    }

    int64_t count() const { return (int64_t)first_rows.size() - 1; }
};

// A thread's memory, in fp32 and whole lanes: what goes into the layer, Dice's p of it, what comes out, and gradients of both.
struct PositionChunk {
    int64_t in, out;
    std::vector<float> inputs, shares, results, of_inputs;
    std::vector<uint32_t> work;  // for pairs of bf16
    std::vector<int64_t> row;

    PositionChunk(const PositionLayer& of) : in(whole_lanes(of.in)), out(whole_lanes(of.out)), inputs(CHUNK * in), shares(CHUNK * in), results(CHUNK * out), of_inputs(CHUNK * in), work(CHUNK / 2 * (in + out) + LANES), row(CHUNK) {}
};

// The layer's products of a chunk, of numbers or of pairs of bf16.
template <class T> class LayerProducts {
  public:
    LayerProducts(const PositionLayer& of) : of(of), in(whole_lanes(of.in)), out(whole_lanes(of.out)) {
        if (NUMBERS<T> > 1) memory[0].resize(taken(of.in, NUMBERS<T>) * out), memory[1].resize(taken(of.out, NUMBERS<T>) * in);
        weight = by_rows(of.weight, of.in, out, memory[0].data());
        turned = by_rows(of.turned, of.out, in, memory[1].data());
    }

    void results(PositionChunk& chunk) const {
        const Factor<T> inputs{in_rows(chunk.inputs.data(), CHUNK * in, work(chunk)), in / NUMBERS<T>, 1};
        product<false>(inputs, weight, out, taken(of.in, NUMBERS<T>), chunk.results.data(), out, CHUNK, out);
    }

    // By the gradient in `chunk.results`: adds to of_weight, and fills `chunk.of_inputs`.
    void gradients(PositionChunk& chunk, int64_t count, float* of_weight) const {
        T* more = work(chunk) + CHUNK * out / NUMBERS<T> + LANES;
        const Factor<T> columns{by_rows(chunk.results.data(), count, out, work(chunk)), 1, out};
        product<true>(columns, by_rows(chunk.inputs.data(), count, in, more), in, taken(count, NUMBERS<T>), of_weight, in, out, in);
        const Factor<T> rows{in_rows(chunk.results.data(), CHUNK * out, work(chunk)), out / NUMBERS<T>, 1};
        product<false>(rows, turned, in, taken(of.out, NUMBERS<T>), chunk.of_inputs.data(), in, CHUNK, in);
    }

  private:
    static T* work(PositionChunk& chunk) { return (T*)chunk.work.data(); }

    const PositionLayer& of;
    const int64_t in, out;
    std::vector<T> memory[2];
    const T *weight, *turned;
};

static inline bool by_pairs(const PositionLayer& of) { return of.by_bf16 && multiplies_bf16(); }

// Calls part(part, first, last, chunk) for each chunk of positions, those of a part in order, with `chunk.row` filled.
template <class Call> static void each_of_parts(const PositionLayer& of, const Parts& parts, int threads, const Call& call) {
    std::vector<PositionChunk> chunks(threads, PositionChunk(of));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < parts.count(); part++) {
        PositionChunk& chunk = chunks[omp_get_thread_num()];
        int64_t row = parts.first_rows[part];
        const int64_t end = of.offsets[parts.first_rows[part + 1]];
        for (int64_t first = of.offsets[row]; first < end; first += CHUNK) {
            const int64_t last = std::min(end, first + CHUNK);
            for (int64_t t = first; t < last; t++) {
                while (of.offsets[row + 1] <= t) row++;
                chunk.row[t - first] = row;
            }
            call(part, first, last, chunk);
        }
    }
}

static inline Lanes rounded_as(const float*, Lanes lanes) { return lanes; }
static inline Lanes rounded_as(const Bf16*, Lanes lanes) {
    Bf16 some[LANES];
    store(some, lanes);
    return load(some);
}

static void pair_inputs_of(const PositionLayer& of, int64_t first, int64_t last, PositionChunk& chunk) {
    const int64_t width = of.in / 2;
    for (int64_t t = first; t < last; t++) {
        const float *k = of.values + t * width, *q = of.vectors + chunk.row[t - first] * width;
        float* to = &chunk.inputs[(t - first) * chunk.in];
        for (int64_t d = 0; d < width; d += LANES) {
            const Lanes value = load(k + d, width - d);
            store(to + d, value, width - d);
            store(to + width + d, value * load(q + d, width - d), width - d);
        }
    }
}

template <class T, bool SHARES> static void dice_inputs_of(const PositionLayer& of, int64_t first, int64_t last, PositionChunk& chunk) {
    for (int64_t d = 0; d < of.in; d += LANES) {
        const int64_t n = of.in - d;
        const DiceTerms terms(of.dice, d, n);
        for (int64_t t = first; t < last; t++) {
            const Lanes s = load((const T*)of.before + t * of.in + d, n), p = terms.share(s);
            const int64_t at = (t - first) * chunk.in + d;
            store(&chunk.inputs[at], terms.result(s, p));
            if (SHARES) store(&chunk.shares[at], p);
        }
    }
}

// With `chunk.shares`, where asked for.
template <bool SHARES> static void inputs_of(const PositionLayer& of, int64_t first, int64_t last, PositionChunk& chunk) {
    if (is_of_pairs(of)) return pair_inputs_of(of, first, last, chunk);
    of.before_bf16 ? dice_inputs_of<Bf16, SHARES>(of, first, last, chunk) : dice_inputs_of<float, SHARES>(of, first, last, chunk);
}

// Writes the products of a chunk with its bias, and adds what its columns sum up to: of s - centre and its square.
template <class T> static void results_of(const PositionLayer& of, int64_t first, int64_t last, const PositionChunk& chunk, T* results, const float* centre, double* sums) {
    for (int64_t d = 0; d < of.out; d += LANES) {
        const int64_t n = std::min(LANES, of.out - d);
        const Lanes middle = centre ? load(centre + d, n) : Lanes{};
        Lanes sum{}, square{};
        for (int64_t t = first; t < last; t++) {
            const float* bias = of.bias + (is_of_pairs(of) ? chunk.row[t - first] * of.out : 0) + d;
            const Lanes result = rounded_as(results, load(&chunk.results[(t - first) * chunk.out + d]) + load(bias, n)), shifted = result - middle;
            store(results + t * of.out + d, result, n);
            sum += shifted;
            square += shifted * shifted;
        }
        for (int64_t i = 0; i < n; i++) sums[d + i] += sum[i], sums[chunk.out + d + i] += square[i];
    }
}

template <class N, class T> static void forward_by(const PositionLayer& of, T* results, const float* centre, float* sums, int threads) {
    const Parts parts(of);
    const LayerProducts<N> products(of);
    const int64_t width = whole_lanes(of.out);
    std::vector<double> found(parts.count() * 2 * width);
    each_of_parts(of, parts, threads, [&](int64_t part, int64_t first, int64_t last, PositionChunk& chunk) {
        inputs_of<false>(of, first, last, chunk);
        products.results(chunk);
        results_of(of, first, last, chunk, results, centre, &found[part * 2 * width]);
    });
    for (int64_t i = 0; centre && i < 2; i++)
        for (int64_t d = 0; d < of.out; d++) {
            double sum = 0;
            for (int64_t part = 0; part < parts.count(); part++) sum += found[(part * 2 + i) * width + d];
            sums[i * of.out + d] = (float)sum;
        }
}

// Fills `chunk.results` with the gradient of a chunk's results; positions that it has not got are 0.
template <class T> static void gradients_of(const PositionLayer& of, const PositionGradient& from, int64_t first, int64_t last, PositionChunk& chunk) {
    for (int64_t d = 0; d < of.out; d += LANES) {
        const int64_t n = of.out - d;
        const Lanes level = from.level ? load(from.level + d, n) : Lanes{}, slope = from.level ? load(from.slope + d, n) : Lanes{};
        for (int64_t t = first; t < last; t++) {
            Lanes gradient = load((const T*)from.gradient + t * of.out + d, n);
            if (from.level) gradient += level + slope * load((const T*)from.results + t * of.out + d, n);
            store(&chunk.results[(t - first) * chunk.out + d], gradient);
        }
    }
    std::fill(chunk.results.begin() + (last - first) * chunk.out, chunk.results.end(), 0.0f);
}

// A row's positions are one part's: its sums begin at 0 and are this thread's alone.
static void pair_gradients_of(const PositionLayer& of, const PositionGradients& to, int64_t first, int64_t last, const PositionChunk& chunk) {
    const int64_t width = of.in / 2;
    for (int64_t t = first; t < last; t++) {
        const int64_t row = chunk.row[t - first];
        const float *from = &chunk.of_inputs[(t - first) * chunk.in], *result = &chunk.results[(t - first) * chunk.out];
        for (int64_t d = 0; d < width; d += LANES) {
            const int64_t n = width - d;
            const Lanes of_product = load(from + width + d, n);
            store(to.of_values + t * width + d, load(from + d, n) + of_product * load(of.vectors + row * width + d, n), n);
            float* sum = to.of_vectors + row * width + d;
            store(sum, load(sum, n) + of_product * load(of.values + t * width + d, n), n);
        }
        float* sum = to.of_bias + row * of.out;
        for (int64_t d = 0; d < of.out; d += LANES) store(sum + d, load(sum + d, of.out - d) + load(result + d), of.out - d);
    }
}

template <class T> static void dice_gradients_of(const PositionLayer& of, void* of_before, int64_t first, int64_t last, PositionChunk& chunk, double* sums) {
    for (int64_t d = 0; d < of.in; d += LANES) {
        const int64_t n = std::min(LANES, of.in - d);
        const DiceTerms terms(of.dice, d, n);
        Lanes found[3] = {};
        for (int64_t t = first; t < last; t++) {
            const int64_t at = (t - first) * chunk.in + d;
            const Lanes s = load((const T*)of.before + t * of.in + d, n);
            store(&chunk.of_inputs[at], terms.gradient(s, load(&chunk.shares[at]), load(&chunk.of_inputs[at]), found));
        }
        for (int64_t j = 0; j < 3; j++)
            for (int64_t i = 0; i < n; i++) sums[j * chunk.in + d + i] += found[j][i];
    }
    for (int64_t t = first; t < last; t++)
        for (int64_t d = 0; d < of.in; d += LANES) store((T*)of_before + t * of.in + d, load(&chunk.of_inputs[(t - first) * chunk.in + d]), of.in - d);
}

// Adds to a part's sums of a bias' gradient; pairs have one a row.
static void bias_gradients_of(const PositionLayer& of, const PositionChunk& chunk, double* sums) {
    for (int64_t d = 0; d < of.out; d += LANES) {
        Lanes sum{};
        for (int64_t t = 0; t < CHUNK; t++) sum += load(&chunk.results[t * chunk.out + d]);
        for (int64_t i = 0; i < LANES; i++) sums[d + i] += sum[i];
    }
}

template <class N> static void backward_by(const PositionLayer& of, const PositionGradient& from, const PositionGradients& to, int threads) {
    const Parts parts(of);
    const LayerProducts<N> products(of);
    const int64_t in = whole_lanes(of.in), out = whole_lanes(of.out), numbers = 3 * in + out;
    std::vector<float> of_weights(parts.count() * out * in);
    std::vector<double> sums(parts.count() * numbers);
    each_of_parts(of, parts, threads, [&](int64_t part, int64_t first, int64_t last, PositionChunk& chunk) {
        inputs_of<true>(of, first, last, chunk);
        (from.bf16 ? gradients_of<Bf16> : gradients_of<float>)(of, from, first, last, chunk);
        products.gradients(chunk, last - first, &of_weights[part * out * in]);
        if (is_of_pairs(of)) return pair_gradients_of(of, to, first, last, chunk);
        double* found = &sums[part * numbers];
        (of.before_bf16 ? dice_gradients_of<Bf16> : dice_gradients_of<float>)(of, to.of_before, first, last, chunk, found);
        bias_gradients_of(of, chunk, found + 3 * in);
    });
    std::fill(to.of_weight, to.of_weight + out * in, 0.0f);
    for (int64_t part = 0; part < parts.count(); part++)
        for (int64_t i = 0; i < out * in; i++) to.of_weight[i] += of_weights[part * out * in + i];
    if (is_of_pairs(of)) return;
    std::vector<double> whole(numbers);
    for (int64_t part = 0; part < parts.count(); part++)
        for (int64_t i = 0; i < numbers; i++) whole[i] += sums[part * numbers + i];
    for (int64_t j = 0; j < 3; j++)
        for (int64_t d = 0; d < of.in; d++) to.of_dice[j * of.in + d] = (float)whole[j * in + d];
    for (int64_t d = 0; d < of.out; d++) to.of_bias[d] = (float)whole[3 * in + d];
}

template <class T> static void forward_of(const PositionLayer& of, T* results, const float* centre, float* sums, int threads) {
    by_pairs(of) ? forward_by<Pair>(of, results, centre, sums, threads) : forward_by<float>(of, results, centre, sums, threads);
}

void layer_forward(const PositionLayer& of, void* results, bool bf16, const float* centre, float* sums, int threads) {
    bf16 ? forward_of(of, (Bf16*)results, centre, sums, threads) : forward_of(of, (float*)results, centre, sums, threads);
}

void layer_backward(const PositionLayer& of, const PositionGradient& from, const PositionGradients& to, int threads) {
    by_pairs(of) ? backward_by<Pair>(of, from, to, threads) : backward_by<float>(of, from, to, threads);
}

}  // namespace INSTRUCTIONS
