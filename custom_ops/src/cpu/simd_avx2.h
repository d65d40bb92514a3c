// AVX2 and FMA: 8 floats a register, 16 registers.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "exp2_polynomial.h"

namespace axform {
namespace {

struct Simd {
  static constexpr const char* kName = "avx2";
  static constexpr int kWidth = 8;
  static constexpr int kAccumulators = 12;
  static constexpr int kColumns = 2;

  using Float = __m256;
  using Int = __m256i;

  static Int first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }

  static Float zero() { return _mm256_setzero_ps(); }
  static Float set1(float x) { return _mm256_set1_ps(x); }
  static Float load(const float* p) { return _mm256_loadu_ps(p); }
  static Float load_first(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
  static void store(float* p, Float x) { _mm256_storeu_ps(p, x); }
  static void store_first(float* p, Float x, int n) { _mm256_maskstore_ps(p, first(n), x); }
  static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
  static Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
  static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
  static Float keep_first(Float x, int n, Float rest) {
    return _mm256_blendv_ps(rest, x, _mm256_castsi256_ps(first(n)));
  }
  static float max_of(Float x) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
  }
  static float sum_of(Float x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }

  static Float exp2(Float x) {
    namespace c = exp2_polynomial;
    const Float normal = _mm256_cmp_ps(x, set1(c::kSmallest), _CMP_NLT_UQ);  // true for NaN, which stays
    const Float clamped = _mm256_max_ps(set1(c::kSmallest), x);              // the second operand, NaN included
    const Float whole = _mm256_round_ps(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Float f = sub(clamped, whole);
    const Float p = c::value<Simd>(f);
    const Int exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23);
    return _mm256_and_ps(mul(p, _mm256_castsi256_ps(exponent)), normal);
  }

  static uint32_t positive_bits(Float x) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, zero(), _CMP_GT_OQ)));
  }
  static uint32_t at_least_bits(Float x, Float y) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, y, _CMP_GE_OQ)));
  }

  static Int int_zero() { return _mm256_setzero_si256(); }
  static Int int_load(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const Int*>(p)); }
  static void int_store(int32_t* p, Int x) { _mm256_storeu_si256(reinterpret_cast<Int*>(p), x); }
  static int32_t int_sum_of(Int x) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
  }
  static Int positive_lanes(Float x) { return _mm256_castps_si256(_mm256_cmp_ps(x, zero(), _CMP_GT_OQ)); }
  static Int count_positive(Int sum, Float x) { return _mm256_sub_epi32(sum, positive_lanes(x)); }
  static Int add_where_positive(Int sum, Float x, Int addend) {
    return _mm256_add_epi32(sum, _mm256_and_si256(positive_lanes(x), addend));
  }
};

}  // namespace
}  // namespace axform
