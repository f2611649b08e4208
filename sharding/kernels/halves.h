// Numbers of fp16, widened to fp32 and rounded from it to nearest.
//
// Included inside the namespace of a set of instructions, after `<cstring>` and `intrinsics.h`.
static inline void widen(const uint16_t* from, float* to, int64_t n) {
    int64_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + i))));
#endif
    for (; i < n; i++) {
        _Float16 value;
        std::memcpy(&value, from + i, 2);
        to[i] = (float)value;
    }
}

static inline void narrow(const float* from, uint16_t* to, int64_t n) {
    int64_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8) _mm_storeu_si128((__m128i*)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
#endif
    for (; i < n; i++) {
        _Float16 value = (_Float16)from[i];
        std::memcpy(to + i, &value, 2);
    }
}
