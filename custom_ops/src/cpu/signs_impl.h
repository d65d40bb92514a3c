// Sign statistics of queries and keys: one pass over each, which is all that key selection reads.
#pragma once

#include "kernels.h"
#include "span.h"

namespace axform::cpu {
namespace {

// Columns [first, first + C registers) of count_positive; `tail` columns of the last register exist.
template <int C>
void count_positive_columns(const Rows& rows, int64_t first, int tail, int32_t* counts) {
  constexpr int W = Simd::kWidth;
  Simd::Int sum[C];
  for (int c = 0; c < C; ++c) sum[c] = Simd::int_zero();
  for (int64_t i = 0; i < rows.count; ++i) {
    if (!rows.valid(i)) continue;
    const float* x = rows.row(i) + first;
    for (int c = 0; c < C - 1; ++c) sum[c] = Simd::count_positive(sum[c], Simd::load(x + c * W));
    const Simd::Float last = tail == W ? Simd::load(x + (C - 1) * W) : Simd::load_first(x + (C - 1) * W, tail);
    sum[C - 1] = Simd::count_positive(sum[C - 1], last);
  }
  int32_t lanes[W];
  for (int c = 0; c < C; ++c) {
    Simd::int_store(lanes, sum[c]);
    const int n = c == C - 1 ? tail : W;
    for (int i = 0; i < n; ++i) counts[first + c * W + i] = lanes[i];
  }
}

void count_positive(const Rows& rows, int64_t head_size, int32_t* counts) {
  constexpr int W = Simd::kWidth;
  int64_t first = 0;
  for (; first + 8 * W <= head_size; first += 8 * W) count_positive_columns<8>(rows, first, W, counts);
  for (; first + 4 * W <= head_size; first += 4 * W) count_positive_columns<4>(rows, first, W, counts);
  for (; first < head_size; first += W) {
    const int64_t left = head_size - first;
    count_positive_columns<1>(rows, first, left < W ? static_cast<int>(left) : W, counts);
  }
}

AXFORM_ALWAYS_INLINE uint64_t sign_word(const float* x, int64_t n) {
  constexpr int W = Simd::kWidth;
  uint64_t word = 0;
  int64_t i = 0;
  for (; i + W <= n; i += W) word |= static_cast<uint64_t>(Simd::positive_bits(Simd::load(x + i))) << i;
  if (i < n) {
    const Simd::Float last = Simd::load_first(x + i, static_cast<int>(n - i));
    word |= static_cast<uint64_t>(Simd::positive_bits(last)) << i;
  }
  return word;
}

void sign_distance_ranks(const Rows& rows, int64_t head_size, const uint64_t* target, uint32_t* ranks) {
  const int64_t full = head_size / 64;
  const int64_t rest = head_size % 64;
  for (int64_t k = 0; k < rows.count; ++k) {
    if (!rows.valid(k)) {
      ranks[k] = kExcludedRank;
      continue;
    }
    const float* x = rows.row(k);
    int distance = 1;
    for (int64_t w = 0; w < full; ++w) distance += __builtin_popcountll(sign_word(x + w * 64, 64) ^ target[w]);
    if (rest != 0) distance += __builtin_popcountll(sign_word(x + full * 64, rest) ^ target[full]);
    ranks[k] = static_cast<uint32_t>(distance);
  }
}

void sign_score_ranks(const Rows& rows, int64_t head_size, const int32_t* weights, uint32_t* ranks) {
  constexpr int W = Simd::kWidth;
  const int64_t full = head_size / W * W;
  for (int64_t k = 0; k < rows.count; ++k) {
    if (!rows.valid(k)) {
      ranks[k] = kExcludedRank;
      continue;
    }
    const float* x = rows.row(k);
    Simd::Int sum = Simd::int_zero();
    for (int64_t i = 0; i < full; i += W) {
      sum = Simd::add_where_positive(sum, Simd::load(x + i), Simd::int_load(weights + i));
    }
    int32_t score = Simd::int_sum_of(sum);
    for (int64_t i = full; i < head_size; ++i) score += x[i] > 0.0f ? weights[i] : 0;
    ranks[k] = kScoreRankBase - static_cast<uint32_t>(score);
  }
}

}  // namespace
}  // namespace axform::cpu
