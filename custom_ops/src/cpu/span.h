// What the parts of the CPU kernels share; the including file has chosen `Simd`.
#pragma once

#include <cstdint>

#define AXFORM_ALWAYS_INLINE inline __attribute__((always_inline))

namespace axform::cpu {
namespace {

// Floats that one step of a product spans: the keys of a packed panel, or columns of the output.
constexpr int64_t kSpan = Simd::kWidth * Simd::kColumns;

}  // namespace
}  // namespace axform::cpu
