// What the compiler has for vectors, where a set of instructions has some.
#pragma once
#if defined(__AVX2__)
#include <immintrin.h>
#endif
