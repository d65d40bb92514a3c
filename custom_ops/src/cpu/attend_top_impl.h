// Hard attention: the softmax over all keys, of which each row keeps its largest few probabilities.
#pragma once

#include "attend_impl.h"

namespace axform::cpu {
namespace {

// The n-th largest (1 is the largest) of x[0..count), which it reorders. Hoare's selection.
inline float nth_largest(float* x, int64_t count, int64_t n) {
  int64_t low = 0, high = count - 1;
  const int64_t target = n - 1;
  while (low < high) {
    const float pivot = x[low + (high - low) / 2];
    int64_t i = low, j = high;
    while (i <= j) {
      while (x[i] > pivot) ++i;
      while (pivot > x[j]) --j;
      if (i <= j) {
        const float swapped = x[i];
        x[i++] = x[j];
        x[j--] = swapped;
      }
    }
    if (target <= j) {
      high = j;
    } else if (target >= i) {
      low = i;
    } else {
      break;
    }
  }
  return x[target];
}

// A value that at least `top` of the probabilities reach: the top-th largest maximum among disjoint groups of them.
inline float lower_bound_of_top(const float* p, int64_t keys, int64_t top) {
  constexpr int W = Simd::kWidth;
  constexpr int kMaxGroups = 256;
  const int64_t registers = round_up(top, W) / W;
  if (registers * W > kMaxGroups || keys < 2 * registers * W) return 0.0f;
  float largest[kMaxGroups];
  for (int64_t g = 0; g < registers; ++g) {
    Simd::Float m = Simd::load(p + g * W);
    for (int64_t k = (g + registers) * W; k + W <= keys; k += registers * W) m = Simd::max(m, Simd::load(p + k));
    Simd::store(largest + g * W, m);
  }
  return nth_largest(largest, registers * W, top);
}

// Positions of the `top` largest of p[0..keys), ties by position, in rising order. `candidates` holds `keys` floats.
inline void find_top(const float* p, int64_t keys, int64_t top, float* candidates, int32_t* index) {
  constexpr int W = Simd::kWidth;
  const float bound = lower_bound_of_top(p, keys, top);
  const Simd::Float bounds = Simd::set1(bound);
  int64_t count = 0;
  for (int64_t k = 0; k < keys; k += W) {
    const int64_t left = keys - k;
    uint32_t bits = left < W ? Simd::at_least_bits(Simd::load_first(p + k, static_cast<int>(left)), bounds) &
                                   ((1u << left) - 1u)
                             : Simd::at_least_bits(Simd::load(p + k), bounds);
    for (; bits != 0; bits &= bits - 1) {
      index[count] = static_cast<int32_t>(k + __builtin_ctz(bits));
      candidates[count] = p[index[count]];
      ++count;
    }
  }
  const float last = nth_largest(candidates, count, top);
  int64_t ties = top;
  for (int64_t i = 0; i < count; ++i) ties -= p[index[i]] > last;
  int64_t kept = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float x = p[index[i]];
    if (x > last || (x == last && ties-- > 0)) index[kept++] = index[i];
  }
}

inline void store_row(const AttendTask& t, int64_t row, const float* p, const int32_t* index, int64_t count,
                      float factor) {
  constexpr int W = Simd::kWidth;
  const int64_t value_stride = round_up(t.value_size, W);
  float* y = t.output + row * t.output_stride;
  for (int64_t c = 0; c < t.value_size; c += W) {
    Simd::Float sum = Simd::zero();
    for (int64_t i = 0; i < count; ++i) {
      const Simd::Float v = Simd::load(t.packed_values + index[i] * value_stride + c);
      sum = Simd::fma(Simd::set1(p[index[i]]), v, sum);
    }
    sum = Simd::mul(sum, Simd::set1(factor));
    const int64_t left = t.value_size - c;
    if (left >= W) {
      Simd::store(y + c, sum);
    } else {
      Simd::store_first(y + c, sum, static_cast<int>(left));
    }
  }
}

inline void fill_row(const AttendTask& t, int64_t row, float x) {
  float* y = t.output + row * t.output_stride;
  for (int64_t c = 0; c < t.value_size; ++c) y[c] = x;
}

// Scratch beyond the scores: candidates and their positions, `keys` of each.
void attend_top(const AttendTask& t) {
  const int64_t padded = round_up(t.keys, Simd::kWidth);
  const int64_t block = row_block(t.keys);
  float* candidates = t.scores + score_floats(t.keys);
  int32_t* index = reinterpret_cast<int32_t*>(candidates + padded);
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
      const int64_t kept = visible < t.top ? visible : t.top;
      if (kept > 0) find_top(p, visible, kept, candidates, index);
      store_row(t, row, p, index, kept, weights.inverse_sum);
    }
  }
}

}  // namespace
}  // namespace axform::cpu
