// Gathers the selected keys and values of one head into the layouts that attend() streams through.
//
// Keys:   panels of up to kColumns registers of keys; within a panel, element d of all its keys is contiguous.
// Values: one row a key, value columns padded with zeros to whole registers.
#pragma once

#include "kernels.h"
#include "span.h"

namespace axform::cpu {
namespace {

void pack_keys(const Rows& rows, const int32_t* index, int64_t keys, int64_t head_size, float factor, float* out) {
  constexpr int W = Simd::kWidth;
  const int64_t padded = round_up(keys, W);
  for (int64_t first = 0; first < padded; first += kSpan) {
    const int64_t width = padded - first < kSpan ? padded - first : kSpan;
    float* panel = out + first * head_size;
    for (int64_t j = 0; j < width; ++j) {
      if (first + j < keys) {
        const float* key = rows.row(index[first + j]);
        for (int64_t d = 0; d < head_size; ++d) panel[d * width + j] = key[d] * factor;
      } else {
        for (int64_t d = 0; d < head_size; ++d) panel[d * width + j] = 0.0f;
      }
    }
  }
}

void pack_values(const Rows& rows, const int32_t* index, int64_t keys, int64_t value_size, float* out) {
  constexpr int W = Simd::kWidth;
  const int64_t full = value_size / W * W;
  const int tail = static_cast<int>(value_size - full);
  for (int64_t j = 0; j < keys; ++j) {
    const float* value = rows.row(index[j]);
    for (int64_t c = 0; c < full; c += W) Simd::store(out + c, Simd::load(value + c));
    if (tail != 0) Simd::store(out + full, Simd::load_first(value + full, tail));
    out += full + (tail != 0 ? W : 0);
  }
}

}  // namespace
}  // namespace axform::cpu
