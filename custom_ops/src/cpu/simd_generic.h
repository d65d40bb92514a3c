// Plain C++: 4 floats in an array, which any compiler can map to what the machine has.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "exp2_polynomial.h"

namespace axform {
namespace {

struct Simd {
  static constexpr const char* kName = "generic";
  static constexpr int kWidth = 4;
  static constexpr int kAccumulators = 8;
  static constexpr int kColumns = 2;

  struct Float {
    float v[kWidth];
  };
  struct Int {
    int32_t v[kWidth];
  };

  template <class Lane>
  static Float each(Lane lane) {
    Float r;
    for (int i = 0; i < kWidth; ++i) r.v[i] = lane(i);
    return r;
  }

  static Float zero() { return set1(0.0f); }
  static Float set1(float x) {
    return each([=](int) { return x; });
  }
  static Float load(const float* p) {
    return each([=](int i) { return p[i]; });
  }
  static Float load_first(const float* p, int n) {
    return each([=](int i) { return i < n ? p[i] : 0.0f; });
  }
  static void store(float* p, Float x) { store_first(p, x, kWidth); }
  static void store_first(float* p, Float x, int n) {
    for (int i = 0; i < n; ++i) p[i] = x.v[i];
  }
  static Float add(Float a, Float b) {
    return each([&](int i) { return a.v[i] + b.v[i]; });
  }
  static Float sub(Float a, Float b) {
    return each([&](int i) { return a.v[i] - b.v[i]; });
  }
  static Float mul(Float a, Float b) {
    return each([&](int i) { return a.v[i] * b.v[i]; });
  }
  static Float fma(Float a, Float b, Float c) {
    return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
  }
  static Float max(Float a, Float b) {
    return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static Float keep_first(Float x, int n, Float rest) {
    return each([&](int i) { return i < n ? x.v[i] : rest.v[i]; });
  }
  static float max_of(Float x) {
    float m = x.v[0];
    for (int i = 1; i < kWidth; ++i) m = m > x.v[i] ? m : x.v[i];
    return m;
  }
  static float sum_of(Float x) { return (x.v[0] + x.v[1]) + (x.v[2] + x.v[3]); }

  static Float exp2(Float x) {
    namespace c = exp2_polynomial;
    return each([&](int i) {
      if (x.v[i] < c::kSmallest) return 0.0f;
      if (x.v[i] != x.v[i]) return x.v[i];
      const float whole = std::nearbyint(x.v[i]);
      const float f = x.v[i] - whole;
      const float p = ((((c::kC5 * f + c::kC4) * f + c::kC3) * f + c::kC2) * f + c::kC1) * f + c::kC0;
      const uint32_t exponent = static_cast<uint32_t>(static_cast<int32_t>(whole) + 127) << 23;
      float power;
      std::memcpy(&power, &exponent, sizeof power);
      return p * power;
    });
  }

  static uint32_t positive_bits(Float x) {
    uint32_t bits = 0;
    for (int i = 0; i < kWidth; ++i) bits |= static_cast<uint32_t>(x.v[i] > 0.0f) << i;
    return bits;
  }
  static uint32_t at_least_bits(Float x, Float y) {
    uint32_t bits = 0;
    for (int i = 0; i < kWidth; ++i) bits |= static_cast<uint32_t>(x.v[i] >= y.v[i]) << i;
    return bits;
  }

  static Int int_zero() { return Int{}; }
  static Int int_load(const int32_t* p) {
    Int r;
    for (int i = 0; i < kWidth; ++i) r.v[i] = p[i];
    return r;
  }
  static void int_store(int32_t* p, Int x) {
    for (int i = 0; i < kWidth; ++i) p[i] = x.v[i];
  }
  static int32_t int_sum_of(Int x) { return x.v[0] + x.v[1] + x.v[2] + x.v[3]; }
  static Int count_positive(Int sum, Float x) {
    for (int i = 0; i < kWidth; ++i) sum.v[i] += x.v[i] > 0.0f;
    return sum;
  }
  static Int add_where_positive(Int sum, Float x, Int addend) {
    for (int i = 0; i < kWidth; ++i) sum.v[i] += x.v[i] > 0.0f ? addend.v[i] : 0;
    return sum;
  }
};

}  // namespace
}  // namespace axform
