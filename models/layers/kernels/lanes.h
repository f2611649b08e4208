// Sixteen numbers at a time, in fp32, whatever vectors the processor has; read from and written to fp32 or bf16.
//
// Included inside the namespace of a set of instructions.
constexpr int64_t LANES = 16;

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

struct Bf16 { uint16_t bits; };

static inline Lanes all(float value) { return value - Lanes{}; }

static inline Lanes as_lanes(Words words) {
    Lanes lanes;
    std::memcpy(&lanes, &words, sizeof lanes);
    return lanes;
}

static inline Words as_words(Lanes lanes) {
    Words words;
    std::memcpy(&words, &lanes, sizeof words);
    return words;
}

static inline Lanes load(const float* from) {
    Lanes lanes;
    std::memcpy(&lanes, from, sizeof lanes);
    return lanes;
}

static inline Lanes load(const Bf16* from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof halves);
    return as_lanes(__builtin_convertvector(halves, Words) << 16);
}

static inline void store(float* to, Lanes lanes) { std::memcpy(to, &lanes, sizeof lanes); }

// Rounds to nearest, to even of two.
static inline void store(Bf16* to, Lanes lanes) {
    const Words words = as_words(lanes), rounded = (words + 0x7FFF + ((words >> 16) & 1)) >> 16;
    const Halves halves = __builtin_convertvector((lanes == lanes) ? rounded : Words{} + 0x7FC0, Halves);
    std::memcpy(to, &halves, sizeof halves);
}

// Of fewer than LANES numbers: the others are 0.
template <class T> static inline Lanes load(const T* from, int64_t n) {
    if (n >= LANES) return load(from);
    T some[LANES] = {};
    std::memcpy(some, from, n * sizeof(T));
    return load(some);
}

template <class T> static inline void store(T* to, Lanes lanes, int64_t n) {
    if (n >= LANES) return store(to, lanes);
    T some[LANES];
    store(some, lanes);
    std::memcpy(to, some, n * sizeof(T));
}

// Adds up lanes, halves first: in the same order on every processor.
static inline float total(Lanes lanes) {
    typedef float Eight __attribute__((vector_size(32)));
    typedef float Four __attribute__((vector_size(16)));
    Eight eights[2];
    std::memcpy(eights, &lanes, sizeof lanes);
    const Eight eight = eights[0] + eights[1];
    Four fours[2];
    std::memcpy(fours, &eight, sizeof eight);
    const Four four = fours[0] + fours[1];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

// exp(x) to 1.1 units in the last place: 2^n times a polynomial over [-ln 2 / 2, ln 2 / 2] (as in Cephes' expf). x is taken
// between -87 and 87; NaN stays.
static inline Lanes exp(Lanes x) {
    x = x > 87.0f ? all(87.0f) : x;
    x = x < -87.0f ? all(-87.0f) : x;
    const Lanes shifted = x * 1.44269504088896341f + 12582912.0f;  // whose last bits are those of n
    const Lanes n = shifted - 12582912.0f;
    const Lanes r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Lanes p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * as_lanes((as_words(shifted) + (127 - 0x4B400000)) << 23);
}

static inline Lanes sigmoid(Lanes x) { return 1.0f / (1.0f + exp(-x)); }
