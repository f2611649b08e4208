// The entry points of towers' kernels: each calls the form that this processor has the instructions for.
#include "dice.h"
#include "levels.h"

extern "C" {

// Sums [2, columns] of x - centre and of its square.
void column_sums(const Columns* x, const float* centre, float* sums, int32_t threads) { FORM(column_sums(*x, centre, sums, threads)); }

void dice(const Columns* x, const DiceOf* of, void* result, int32_t threads) { FORM(dice(*x, *of, result, threads)); }

// Sums [3, columns] of the gradients of alpha, of the exponent, and of that times the exponent; the latter two up to 1 - alpha.
void dice_sums(const Columns* x, const DiceOf* of, const void* gradient, float* sums, int32_t threads) { FORM(dice_sums(*x, *of, gradient, sums, threads)); }

// The gradient of x; level + slope x is what it has by way of the moments.
void dice_gradient(const Columns* x, const DiceOf* of, const void* gradient, const float* level, const float* slope, void* result, int32_t threads) {
    FORM(dice_gradient(*x, *of, gradient, level, slope, result, threads));
}
}
