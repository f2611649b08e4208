// What is drawn is computed as the torch form does, in fp64 and rounded once: every form gives the same bits.
#include "fresh.h"

#include <algorithm>
#include <cstring>

#include "intrinsics.h"

namespace INSTRUCTIONS {

#include "draws.h"
#include "halves.h"

constexpr int64_t AHEAD = 8;      // rows between a prefetch and its use
constexpr int64_t FEW = 1 << 12;  // numbers that are not worth a second thread

static inline float uniform(uint32_t bits, double scale) { return (float)(((double)((int32_t)bits >> 8) + 0.5) * 0x1p-23 * scale); }

// Draws the first values of ids [n]: [n, columns].
void draw(const Draw& of, const int64_t* ids, int64_t n, float* values, int threads) {
#pragma omp parallel for num_threads(n * of.columns < FEW ? 1 : threads) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const uint64_t start = mixed((uint64_t)ids[i] + of.key);
        float* row = values + i * of.columns;
        for (int64_t d = 0; d < of.columns; d += 2) {
            const uint64_t word = mixed(start + (uint64_t)(d / 2 + 1) * 0x9E3779B97F4A7C15ull);
            row[d] = uniform((uint32_t)word, of.scale);
            if (d + 1 < of.columns) row[d + 1] = uniform((uint32_t)(word >> 32), of.scale);
        }
        std::fill(row, row + of.zero_columns, 0.0f);
    }
}

static inline void prefetch(const void* memory, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch((const char*)memory + at, 1);
}

// No row is there twice.
void renew(const Fresh& fresh, int threads) {
    const int64_t width = fresh.half ? 2 : 4;
    const auto cleared = [&](int64_t c, int64_t row) { return (char*)fresh.cleared[c].memory + row * fresh.cleared[c].bytes; };
#pragma omp parallel for num_threads(fresh.n * std::max<int64_t>(1, fresh.stored) < FEW ? 1 : threads) schedule(static)
    for (int64_t i = 0; i < fresh.n; i++) {
        if (i + AHEAD < fresh.n) {
            const int64_t later = fresh.rows[i + AHEAD];
            if (fresh.values) prefetch((char*)fresh.weight + later * fresh.stored * width, fresh.columns * width);
            for (int64_t c = 0; c < fresh.count; c++) prefetch(cleared(c, later), fresh.cleared[c].bytes);
        }
        const int64_t row = fresh.rows[i];
        for (int64_t c = 0; c < fresh.count; c++) std::memset(cleared(c, row), 0, fresh.cleared[c].bytes);
        if (!fresh.values) continue;
        const float* from = fresh.values + i * fresh.stride;
        if (fresh.half) narrow(from, (uint16_t*)fresh.weight + row * fresh.stored, fresh.columns);
        else std::memcpy((float*)fresh.weight + row * fresh.stored, from, fresh.columns * 4);
    }
}

}  // namespace INSTRUCTIONS
