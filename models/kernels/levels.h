// The sets of instructions that kernels are compiled for, each into a namespace of its own, and the one that is run here.
//
// `forms.h` declares what each of them has; FORM(call) calls that of the level in use.
namespace plain {
#include "forms.h"
}
#if defined(__x86_64__)
namespace avx2 {
#include "forms.h"
}
namespace avx512 {
#include "forms.h"
}
#endif

namespace {

enum Level { PLAIN, AVX2, AVX512 };

Level best() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool f16 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
    if (f16 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) return AVX512;
    if (f16) return AVX2;
#endif
    return PLAIN;
}

Level level = best();

}  // namespace

#if defined(__x86_64__)
#define FORM(call) (level == AVX512 ? avx512::call : level == AVX2 ? avx2::call : plain::call)
#else
#define FORM(call) plain::call
#endif

// 0: plain, 1: AVX2, 2: AVX-512. Takes a lower one if asked to; returns which it is.
extern "C" int32_t kernel_level(int32_t wanted) {
    if (wanted >= 0 && wanted <= best()) level = (Level)wanted;
    return level;
}
