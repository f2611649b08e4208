// What Dice is computed of: plain C, which `dice.py` mirrors.
#pragma once
#include "columns.h"

// Of each column: E[s], 1 / sqrt(Var[s] + eps) and alpha.
struct DiceOf { const float *mean, *scale, *alpha; };
