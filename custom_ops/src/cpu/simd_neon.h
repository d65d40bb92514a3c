// NEON on 64-bit Arm: 4 floats a register, 32 registers.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "exp2_polynomial.h"

namespace axform {
namespace {

struct Simd {
  static constexpr const char* kName = "neon";
  static constexpr int kWidth = 4;
  static constexpr int kAccumulators = 24;
  static constexpr int kColumns = 4;

  using Float = float32x4_t;
  using Int = int32x4_t;

  static uint32x4_t first(int n) {
    const int32_t lanes[4] = {0, 1, 2, 3};
    return vcltq_s32(vld1q_s32(lanes), vdupq_n_s32(n));
  }

  static Float zero() { return vdupq_n_f32(0.0f); }
  static Float set1(float x) { return vdupq_n_f32(x); }
  static Float load(const float* p) { return vld1q_f32(p); }
  static Float load_first(const float* p, int n) {
    float lanes[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int i = 0; i < n; ++i) lanes[i] = p[i];
    return vld1q_f32(lanes);
  }
  static void store(float* p, Float x) { vst1q_f32(p, x); }
  static void store_first(float* p, Float x, int n) {
    float lanes[4];
    vst1q_f32(lanes, x);
    for (int i = 0; i < n; ++i) p[i] = lanes[i];
  }
  static Float add(Float a, Float b) { return vaddq_f32(a, b); }
  static Float sub(Float a, Float b) { return vsubq_f32(a, b); }
  static Float mul(Float a, Float b) { return vmulq_f32(a, b); }
  static Float fma(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
  static Float max(Float a, Float b) { return vmaxq_f32(a, b); }
  static Float keep_first(Float x, int n, Float rest) { return vbslq_f32(first(n), x, rest); }
  static float max_of(Float x) { return vmaxvq_f32(x); }
  static float sum_of(Float x) { return vaddvq_f32(x); }

  static Float exp2(Float x) {
    namespace c = exp2_polynomial;
    const uint32x4_t tiny = vcltq_f32(x, set1(c::kSmallest));  // false for NaN, which stays
    const Float clamped = vmaxq_f32(x, set1(c::kSmallest));
    const Float whole = vrndnq_f32(clamped);
    const Float f = sub(clamped, whole);
    const Float p = c::value<Simd>(f);
    const Int exponent = vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(whole), vdupq_n_s32(127)), 23);
    return vbslq_f32(tiny, zero(), mul(p, vreinterpretq_f32_s32(exponent)));
  }

  static uint32_t bits_of(uint32x4_t lanes) {
    const uint32_t weights[4] = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(lanes, vld1q_u32(weights)));
  }
  static uint32_t positive_bits(Float x) { return bits_of(vcgtq_f32(x, zero())); }
  static uint32_t at_least_bits(Float x, Float y) { return bits_of(vcgeq_f32(x, y)); }

  static Int int_zero() { return vdupq_n_s32(0); }
  static Int int_load(const int32_t* p) { return vld1q_s32(p); }
  static void int_store(int32_t* p, Int x) { vst1q_s32(p, x); }
  static int32_t int_sum_of(Int x) { return vaddvq_s32(x); }
  static Int positive_lanes(Float x) { return vreinterpretq_s32_u32(vcgtq_f32(x, zero())); }
  static Int count_positive(Int sum, Float x) { return vsubq_s32(sum, positive_lanes(x)); }
  static Int add_where_positive(Int sum, Float x, Int addend) {
    return vaddq_s32(sum, vandq_s32(positive_lanes(x), addend));
  }
};

}  // namespace
}  // namespace axform
