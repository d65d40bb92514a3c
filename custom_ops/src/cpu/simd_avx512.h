// AVX-512 (F, BW, DQ, VL): 16 floats a register, 32 registers.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "exp2_polynomial.h"

namespace axform {
namespace {

struct Simd {
  static constexpr const char* kName = "avx512";
  static constexpr int kWidth = 16;
  static constexpr int kAccumulators = 24;  // registers a product may keep its sums in
  static constexpr int kColumns = 4;        // registers a row of a product spans at most

  using Float = __m512;
  using Int = __m512i;

  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

  static Float zero() { return _mm512_setzero_ps(); }
  static Float set1(float x) { return _mm512_set1_ps(x); }
  static Float load(const float* p) { return _mm512_loadu_ps(p); }
  static Float load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store(float* p, Float x) { _mm512_storeu_ps(p, x); }
  static void store_first(float* p, Float x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }
  static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
  static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
  static Float keep_first(Float x, int n, Float rest) { return _mm512_mask_mov_ps(rest, first(n), x); }
  static float max_of(Float x) { return _mm512_reduce_max_ps(x); }
  static float sum_of(Float x) { return _mm512_reduce_add_ps(x); }

  static Float exp2(Float x) {
    namespace c = exp2_polynomial;
    const Float whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Float f = sub(x, whole);
    const Float p = c::value<Simd>(f);
    const __mmask16 normal = _mm512_cmp_ps_mask(x, set1(c::kSmallest), _CMP_NLT_UQ);  // true for NaN, which stays
    return _mm512_maskz_scalef_ps(normal, p, whole);
  }

  // Bit i: lane i is positive. Zeros of either sign and NaN are not.
  static uint32_t positive_bits(Float x) { return _mm512_cmp_ps_mask(x, zero(), _CMP_GT_OQ); }
  // Bit i: lane i is at least y.
  static uint32_t at_least_bits(Float x, Float y) { return _mm512_cmp_ps_mask(x, y, _CMP_GE_OQ); }

  static Int int_zero() { return _mm512_setzero_si512(); }
  static Int int_load(const int32_t* p) { return _mm512_loadu_si512(p); }
  static void int_store(int32_t* p, Int x) { _mm512_storeu_si512(p, x); }
  static int32_t int_sum_of(Int x) { return _mm512_reduce_add_epi32(x); }
  // sum + 1 in the lanes where x is positive
  static Int count_positive(Int sum, Float x) {
    return _mm512_mask_sub_epi32(sum, static_cast<__mmask16>(positive_bits(x)), sum, _mm512_set1_epi32(-1));
  }
  // sum + addend in the lanes where x is positive
  static Int add_where_positive(Int sum, Float x, Int addend) {
    return _mm512_mask_add_epi32(sum, static_cast<__mmask16>(positive_bits(x)), sum, addend);
  }
};

}  // namespace
}  // namespace axform
