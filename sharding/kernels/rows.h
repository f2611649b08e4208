// The rows kernel looks rows of embedding tables up, and updates them by a gradient, in a fixed order for any number of threads.
//
// This is its whole surface: plain C, so that one build serves every version of Python and of torch. `library.py`
// mirrors the structs.
#pragma once
#include <cstdint>

enum Kind : int32_t { SGD = 0, ADAGRAD = 1, ROWWISE_ADAGRAD = 2, RMSPROP = 3, ADAM = 4, FTRL = 5 };

// A rule of `updates/rules.py`. What a, b and c are depends on the kind: momentum; smoothing and 1 - it; 1 - beta1, beta2 and
// 1 - it (a float's 1 - .999 would be 1e-5 off); beta, l1, l2.
struct Rule {
    int32_t kind;
    int32_t by_frequency;
    int32_t of_summed_loss;
    float learning_rate, weight_decay, eps, a, b, c;
    int64_t corrections;            // adam: how many steps the next two are given for, by number of steps
    const float *of_mean, *of_square;
};

// A table [rows, columns] in memory, fp32 or fp16, with its state.
struct Table {
    void* weight;
    float *first, *second;          // state of [rows, columns], or [rows]
    float *per_row;                 // adam: steps
    const float* samples;           // by_frequency: [rows]
    int64_t rows, columns;
    int32_t half, rounds;           // rounds: stochastically, by the next three
    uint64_t key;
    int64_t first_row, first_column;
    Rule rule;
};

// A feature reads `table`; its columns of a batch's vectors begin at `column`.
struct Feature { int64_t table, column; };

// A batch has `bags` bags of every feature; feature f's bag b has the ids [offsets[f * bags + b], offsets[f * bags + b + 1]).
// offsets: null where every bag has one id. scale: of every id, or null. Vectors are [bags, stride].
struct Batch {
    int64_t features, bags;
    const int64_t *ids, *offsets;
    const float* scale;
    int64_t stride;
};

struct Step { float learning_rate_factor, loss_weight; };
