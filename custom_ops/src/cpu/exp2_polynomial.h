// 2^f on [-1/2, 1/2] as a degree 5 polynomial: the minimax fit has a relative error of 7.5e-8 in exact arithmetic and
// 2.2e-7 in float32. Shared by every instruction set, so that all of them round alike.
#pragma once

namespace axform::exp2_polynomial {
inline constexpr float kC0 = 0x1.000002p+0f;
inline constexpr float kC1 = 0x1.62e428p-1f;
inline constexpr float kC2 = 0x1.ebf918p-3f;
inline constexpr float kC3 = 0x1.c6b6e4p-5f;
inline constexpr float kC4 = 0x1.3d0c54p-7f;
inline constexpr float kC5 = 0x1.5c08e4p-10f;
inline constexpr float kSmallest = -126.0f;  // 2^x below the smallest normal number counts as zero

template <class Simd>
inline typename Simd::Float value(typename Simd::Float f) {
  typename Simd::Float p = Simd::fma(Simd::set1(kC5), f, Simd::set1(kC4));
  p = Simd::fma(p, f, Simd::set1(kC3));
  p = Simd::fma(p, f, Simd::set1(kC2));
  p = Simd::fma(p, f, Simd::set1(kC1));
  return Simd::fma(p, f, Simd::set1(kC0));
}
}  // namespace axform::exp2_polynomial
