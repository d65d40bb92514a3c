// Hard attention: the softmax over all keys, of which each row keeps its largest few probabilities.
#pragma once

#include "attend_impl.h"

namespace axform::cpu {
namespace {

inline float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

// How many of p[0..keys) are at least `bound`, which is positive. The last register is padded with zeros.
inline int64_t count_at_least(const float* p, int64_t keys, float bound) {
  const Simd::Float bounds = Simd::set1(bound);
  int64_t count = 0;
  for (int64_t k = 0; k < keys; k += Simd::kWidth) {
    count += __builtin_popcount(Simd::at_least_bits(Simd::load(p + k), bounds));
  }
  return count;
}

// What a row keeps: everything above `last`, and so many of those that equal it.
struct TopCut {
  float last;
  int64_t ties;
};

// Halves the range of the cut until as many probabilities as wanted lie above it. Probabilities are not negative, so
// that their bits order like they do; and bits are nearly linear in the score, so that halving them converges fast.
inline TopCut find_top(const float* p, int64_t keys, int64_t top) {
  uint32_t low = 1;            // more than `top` are at least this
  uint32_t high = 0x7f800000;  // none is at least this, which is infinity
  if (count_at_least(p, keys, float_of(low)) <= top) return {0.0f, 0};
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    const int64_t count = count_at_least(p, keys, float_of(middle));
    if (count == top) return {float_of(middle - 1), 0};
    if (count > top) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return {float_of(low), top - count_at_least(p, keys, float_of(high))};
}

// Positions of what the cut keeps, in rising order; returns how many.
inline int64_t list_top(const float* p, int64_t keys, TopCut cut, int32_t* index) {
  const Simd::Float bounds = Simd::set1(cut.last);
  int64_t kept = 0;
  for (int64_t k = 0; k < keys; k += Simd::kWidth) {
    for (uint32_t bits = Simd::at_least_bits(Simd::load(p + k), bounds); bits != 0; bits &= bits - 1) {
      const int64_t key = k + __builtin_ctz(bits);
      if (p[key] > cut.last || (cut.ties > 0 && cut.ties-- > 0)) index[kept++] = static_cast<int32_t>(key);
    }
  }
  return kept;
}

template <int C>
inline void store_columns(const AttendTask& t, float* y, const float* p, const int32_t* index, int64_t count,
                          float factor, int64_t column, int tail) {
  constexpr int W = Simd::kWidth;
  const int64_t value_stride = round_up(t.value_size, W);
  Tile<1, C> tile;
  tile.clear();
  for (int64_t i = 0; i < count; ++i) {
    const float* value = t.packed_values + index[i] * value_stride + column;
    const Simd::Float x = Simd::set1(p[index[i]] * factor);
    for (int c = 0; c < C; ++c) tile.sum[0][c] = Simd::fma(x, Simd::load(value + c * W), tile.sum[0][c]);
  }
  for (int c = 0; c < C - 1; ++c) Simd::store(y + column + c * W, tile.sum[0][c]);
  Simd::store_first(y + column + (C - 1) * W, tile.sum[0][C - 1], tail);
}

inline void store_row(const AttendTask& t, int64_t row, const float* p, const int32_t* index, int64_t count,
                      float factor) {
  float* y = t.output + row * t.output_stride;
  for_spans(t.value_size, [&](int64_t column, auto registers, int tail) {
    store_columns<decltype(registers)::value>(t, y, p, index, count, factor, column, tail);
  });
}

inline void fill_row(const AttendTask& t, int64_t row, float x) {
  float* y = t.output + row * t.output_stride;
  for (int64_t c = 0; c < t.value_size; ++c) y[c] = x;
}

// Scratch beyond the scores: `keys` positions.
void attend_top(const AttendTask& t) {
  const int64_t padded = round_up(t.keys, Simd::kWidth);
  const int64_t block = row_block(t.keys);
  int32_t* index = reinterpret_cast<int32_t*>(t.scores + score_floats(t.keys));
  for (int64_t first = 0; first < t.queries.count; first += block) {
    const int64_t rows = t.queries.count - first < block ? t.queries.count - first : block;
    score_block(t, first, rows, padded, t.scores);
    for (int64_t r = 0; r < rows; ++r) {
      float* p = t.scores + r * padded;
      const int64_t row = first + r;
      const int64_t visible = t.limit != nullptr ? t.limit[row] : t.keys;
      const RowWeights weights = softmax_row(p, visible, t.score_factor, false, 0.0f);
      if (weights.inverse_sum != weights.inverse_sum) {
        fill_row(t, row, weights.inverse_sum);
        continue;
      }
      const TopCut cut = visible <= t.top ? TopCut{0.0f, 0} : find_top(p, visible, t.top);
      store_row(t, row, p, index, list_top(p, visible, cut, index), weights.inverse_sum);
    }
  }
}

}  // namespace
}  // namespace axform::cpu
