// Which instructions of x86 this machine has, and its operating system saves.
#pragma once

#if defined(_WIN32)
#include <cpuid.h>

#include <cstdint>
#endif

namespace axform::cpu {

#if defined(_WIN32)
// Clang's __builtin_cpu_supports asks a part of its runtime library that Windows programs are not linked with.
struct X86Features {
  bool avx2 = false;    // with FMA, BMI and POPCNT
  bool avx512 = false;  // F, BW, DQ and VL, with those of avx2
};

inline X86Features x86_features() {
  X86Features found;
  unsigned a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return found;
  const bool popcnt = (c >> 23 & 1) != 0, fma = (c >> 12 & 1) != 0, saved = (c >> 27 & 1) != 0;
  if (!saved || !popcnt || !fma || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return found;
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  const auto has = [&](int bit) { return (b >> bit & 1) != 0; };
  found.avx2 = (low & 0x6) == 0x6 && has(5) && has(3);
  found.avx512 = found.avx2 && (low & 0xE6) == 0xE6 && has(16) && has(17) && has(30) && has(31);
  return found;
}

inline bool has_avx2() { return x86_features().avx2; }
inline bool has_avx512() { return x86_features().avx512; }
#else
inline bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("popcnt");
}

inline bool has_avx512() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("popcnt");
}
#endif

}  // namespace axform::cpu
