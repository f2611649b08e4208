// Products of matrices that stay in a core's first caches, so that what lies before and after them does too.
//
// Included inside the namespace of a set of instructions, after `lanes.h`. Columns come in multiples of LANES, rows of TALL, and
// of AVX-512 of 2 TALL. Factors are fp32, or pairs of bf16 where the processor multiplies these (`multiplies_bf16`).
constexpr int64_t TALL = 4;

static inline int64_t whole_lanes(int64_t columns) { return (columns + LANES - 1) / LANES * LANES; }

// A matrix a [rows, k]: number (r, i) is at r * row + i * next, so that it may be a turned one.
template <class T> struct Factor { const T* at; int64_t row, next; };

// R rows by C lanes of a b are summed in registers, b [k, columns].
template <int R, int C, bool ADD> static inline void tile(Factor<float> a, const float* b, int64_t b_row, int64_t k, float* to, int64_t to_row) {
    Lanes sums[R][C];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) sums[r][c] = ADD ? load(to + r * to_row + c * LANES) : Lanes{};
    for (int64_t i = 0; i < k; i++) {
        Lanes of_b[C];
        for (int c = 0; c < C; c++) of_b[c] = load(b + i * b_row + c * LANES);
        for (int r = 0; r < R; r++)
            for (int c = 0; c < C; c++) sums[r][c] += a.at[r * a.row + i * a.next] * of_b[c];
    }
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) store(to + r * to_row + c * LANES, sums[r][c]);
}

// Two numbers in bf16, the first in the lower half.
struct Pair { uint32_t bits; };

#if defined(__AVX512F__) && (defined(__clang__) || __GNUC__ >= 10)
#define WITH_BF16 __attribute__((target("avx512bf16")))

static inline bool multiplies_bf16() { return __builtin_cpu_supports("avx512bf16"); }

template <int R, int C, bool ADD> WITH_BF16 static void tile(Factor<Pair> a, const Pair* b, int64_t b_row, int64_t k, float* to, int64_t to_row) {
    __m512 sums[R][C];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) sums[r][c] = ADD ? _mm512_loadu_ps(to + r * to_row + c * LANES) : _mm512_setzero_ps();
    for (int64_t i = 0; i < k; i++) {
        __m512bh of_b[C];
        for (int c = 0; c < C; c++) of_b[c] = (__m512bh)_mm512_loadu_si512(b + i * b_row + c * LANES);
        for (int r = 0; r < R; r++)
            for (int c = 0; c < C; c++) sums[r][c] = _mm512_dpbf16_ps(sums[r][c], (__m512bh)_mm512_set1_epi32(a.at[r * a.row + i * a.next].bits), of_b[c]);
    }
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) _mm512_storeu_ps(to + r * to_row + c * LANES, sums[r][c]);
}

// Pairs of numbers that follow one another: of [2 count] numbers, a multiple of 2 LANES or the last ones of an array with room behind.
WITH_BF16 static inline void pair_in_rows(const float* from, int64_t count, Pair* to) {
    for (int64_t i = 0; i < count; i += LANES)
        _mm512_storeu_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 2 * i + LANES), _mm512_loadu_ps(from + 2 * i)));
}

// Pairs of a row and the next one: of [rows, columns] numbers, [(rows + 1) / 2, columns]; 0 after the last.
WITH_BF16 static inline void pair_rows(const float* from, int64_t rows, int64_t columns, Pair* to) {
    const __m512i halves = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    for (int64_t r = 0; r < rows; r += 2)
        for (int64_t d = 0; d < columns; d += LANES) {
            const float* first = from + r * columns + d;
            const __m512 second = r + 1 < rows ? _mm512_loadu_ps(first + columns) : _mm512_setzero_ps();
            _mm512_storeu_si512(to + r / 2 * columns + d, _mm512_permutexvar_epi16(halves, (__m512i)_mm512_cvtne2ps_pbh(second, _mm512_loadu_ps(first))));
        }
}
#else
static inline bool multiplies_bf16() { return false; }
template <int R, int C, bool ADD> static void tile(Factor<Pair>, const Pair*, int64_t, int64_t, float*, int64_t) {}
static inline void pair_in_rows(const float*, int64_t, Pair*) {}
static inline void pair_rows(const float*, int64_t, int64_t, Pair*) {}
#endif

template <int R, int C, bool ADD, class T> static inline void tiles(Factor<T> a, const T* b, int64_t b_row, int64_t k, float* to, int64_t to_row, int64_t rows) {
    for (int64_t r = 0; r < rows; r += R) tile<R, C, ADD>(Factor<T>{a.at + r * a.row, a.row, a.next}, b, b_row, k, to + r * to_row, to_row);
}

// As many sums as there are registers for: processors with AVX-512 have 32 of a Lanes each, others 16 of half a Lanes or less.
template <bool ADD, class T> static inline void product(Factor<T> a, const T* b, int64_t b_row, int64_t k, float* to, int64_t to_row, int64_t rows, int64_t columns) {
#ifdef __AVX512F__
    int64_t d = 0;
    for (; d + 4 * LANES <= columns; d += 4 * LANES) tiles<TALL, 4, ADD>(a, b + d, b_row, k, to + d, to_row, rows);
    if (d + 2 * LANES <= columns) {
        tiles<2 * TALL, 2, ADD>(a, b + d, b_row, k, to + d, to_row, rows);
        d += 2 * LANES;
    }
    if (d < columns) tiles<2 * TALL, 1, ADD>(a, b + d, b_row, k, to + d, to_row, rows);
#else
    for (int64_t d = 0; d < columns; d += LANES) tiles<TALL, 1, ADD>(a, b + d, b_row, k, to + d, to_row, rows);
#endif
}

// Numbers as products take them: each by itself, or in pairs, which `work` has room for.
template <class T> constexpr int64_t NUMBERS = 1;
template <> constexpr int64_t NUMBERS<Pair> = 2;

static inline int64_t taken(int64_t k, int64_t numbers) { return (k + numbers - 1) / numbers; }

static inline const float* in_rows(const float* from, int64_t, float*) { return from; }

static inline const Pair* in_rows(const float* from, int64_t count, Pair* work) {
    pair_in_rows(from, count / 2, work);
    return work;
}

static inline const float* by_rows(const float* from, int64_t, int64_t, float*) { return from; }

static inline const Pair* by_rows(const float* from, int64_t rows, int64_t columns, Pair* work) {
    pair_rows(from, rows, columns, work);
    return work;
}
