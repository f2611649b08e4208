// The entry points of towers' kernels: each calls the form that this processor has the instructions for.
#include "attention.h"
#include "dice.h"
#include "fm.h"
#include "jagged.h"
#include "position_layer.h"
#include "recurrent.h"
#include "row_attention.h"
#include "levels.h"

extern "C" {

// Sums [2, columns] of x - centre and of its square.
void column_sums(const Columns* x, const float* centre, float* sums, int32_t threads) { FORM(column_sums(*x, centre, sums, threads)); }

void dice(const Columns* x, const DiceOf* of, void* result, int32_t threads) { FORM(dice(*x, *of, result, threads)); }

// of_x: the gradient of x for given moments. Sums [3, columns] of the gradients of alpha, of the exponent, and of that times the
// exponent; the latter two up to 1 - alpha.
void dice_sums(const Columns* x, const DiceOf* of, const void* gradient, void* of_x, float* sums, int32_t threads) {
    FORM(dice_sums(*x, *of, gradient, of_x, sums, threads));
}

// Adds level + slope x to the gradient of x, in rows that count: what it has by way of the moments.
void dice_moments(const Columns* x, const float* level, const float* slope, void* of_x, int32_t threads) { FORM(dice_moments(*x, level, slope, of_x, threads)); }

void recurrence_forward(const Recurrence* of, int32_t threads) { FORM(recurrence_forward(*of, threads)); }

// gradient: of states, but for what later steps add.
void recurrence_backward(const Recurrence* of, const float* gradient, const RecurrenceGradients* to, int32_t threads) {
    FORM(recurrence_backward(*of, gradient, *to, threads));
}

// sums [2, columns]: of results - centre and of its square, where centre is not null.
void layer_forward(const PositionLayer* of, void* results, int32_t bf16, const float* centre, float* sums, int32_t threads) {
    FORM(layer_forward(*of, results, bf16, centre, sums, threads));
}

// Sums by rows are added to what is there.
void layer_backward(const PositionLayer* of, const PositionGradient* from, const PositionGradients* to, int32_t threads) { FORM(layer_backward(*of, *from, *to, threads)); }

void attention_forward(const Attention* of, float* pooled, float* weights, int32_t threads) { FORM(attention_forward(*of, pooled, weights, threads)); }

void attention_backward(const Attention* of, const float* pooled, const float* weights, const float* gradients, float* of_factors, float* of_parameters, int32_t threads) {
    FORM(attention_backward(*of, pooled, weights, gradients, of_factors, of_parameters, threads));
}

void rows_forward(const Rows* of, void* attended, float* sums, int32_t threads) { FORM(rows_forward(*of, attended, sums, threads)); }

void rows_backward(const Rows* of, const void* attended, const float* sums, const void* gradient, void* of_query, void* of_key, void* of_value, int32_t threads) {
    FORM(rows_backward(*of, attended, sums, gradient, of_query, of_key, of_value, threads));
}

// totals [rows, 1 + columns] and pairs [rows, columns]; beside: as of `FmGradients`, or null.
void fm_forward(const FmFields* x, float* totals, float* pairs, void* beside, int32_t bf16, int32_t threads) {
    FORM(fm_forward(*x, totals, pairs, beside, bf16, threads));
}

// of_field: of the fields' strides; what lies between fields stays as it is.
void fm_backward(const FmFields* x, const float* totals, const FmGradients* of, int32_t bf16, float* of_field, int32_t threads) {
    FORM(fm_backward(*x, totals, *of, bf16, of_field, threads));
}

void logit_forward(const Columns* x, const float* weight, float bias, float* logits, int32_t threads) {
    FORM(logit_forward(*x, weight, bias, logits, threads));
}

// of_x: as x; of_weight [columns].
void logit_backward(const Columns* x, const float* weight, const float* gradient, void* of_x, float* of_weight, int32_t threads) {
    FORM(logit_backward(*x, weight, gradient, of_x, of_weight, threads));
}

void jagged_sums(const Positions* x, void* sums, int32_t threads) { FORM(jagged_sums(*x, sums, threads)); }

void jagged_gradients(const Positions* x, const void* gradient, void* of_values, float* of_weights, int32_t threads) {
    FORM(jagged_gradients(*x, gradient, of_values, of_weights, threads));
}
}
