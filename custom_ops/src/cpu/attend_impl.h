// Attention of a few query rows at a time over the packed keys and values of one head:
//   scores = Q K^T (register-blocked), softmax row by row in base 2, output = P V (register-blocked).
// The scores of a block of rows stay in the first-level cache.
#pragma once

#include "kernels.h"
#include "span.h"

namespace axform::cpu {
namespace {

template <int N>
struct Int {
  static constexpr int value = N;
};

// Calls body(Int<n>) for a run-time n of 1..Max.
template <int Max, class Body>
inline void with_constant(int n, Body body) {
  if constexpr (Max > 1) {
    if (n < Max) return with_constant<Max - 1>(n, body);
  }
  body(Int<Max>{});
}

// Calls body(first, Int<n>, tail) for spans of up to kColumns registers that cover `floats`: n registers from `first` on,
// of which the last holds `tail` floats.
template <class Body>
AXFORM_ALWAYS_INLINE void for_spans(int64_t floats, Body body) {
  for (int64_t first = 0; first < floats; first += kSpan) {
    const int64_t left = floats - first < kSpan ? floats - first : kSpan;
    const int registers = static_cast<int>(round_up(left, Simd::kWidth) / Simd::kWidth);
    const int tail = static_cast<int>(left) - (registers - 1) * Simd::kWidth;
    with_constant<Simd::kColumns>(registers, [&](auto n) { body(first, n, tail); });
  }
}

// Rows of a tile of `columns` registers: as many as the accumulators allow, at most 12.
constexpr int rows_for(int columns) {
  const int limit = columns == 1 ? 8 : 12;
  return Simd::kAccumulators / columns < limit ? Simd::kAccumulators / columns : limit;
}

// Calls body(row, Int<n>) for tiles of n rows that cover `rows`: full ones of R, then 4, 2 and 1.
template <int R, class Body>
AXFORM_ALWAYS_INLINE void for_tiles(int64_t rows, Body body) {
  int64_t r = 0;
  for (; r + R <= rows; r += R) body(r, Int<R>{});
  if constexpr (R > 4) {
    for (; r + 4 <= rows; r += 4) body(r, Int<4>{});
  }
  if constexpr (R > 2) {
    for (; r + 2 <= rows; r += 2) body(r, Int<2>{});
  }
  if constexpr (R > 1) {
    if (r < rows) body(r, Int<1>{});
  }
}

template <int R, int C>
struct Tile {
  Simd::Float sum[R][C];

  AXFORM_ALWAYS_INLINE void clear() {
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) sum[r][c] = Simd::zero();
  }

  // sum += A (R x depth, rows a_stride apart) times B (depth x C registers, rows b_stride apart)
  AXFORM_ALWAYS_INLINE void add_product(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t depth) {
    for (int64_t k = 0; k < depth; ++k) {
      Simd::Float row[C];
      for (int c = 0; c < C; ++c) row[c] = Simd::load(b + c * Simd::kWidth);
      for (int r = 0; r < R; ++r) {
        const Simd::Float x = Simd::set1(a[r * a_stride + k]);
        for (int c = 0; c < C; ++c) sum[r][c] = Simd::fma(x, row[c], sum[r][c]);
      }
      b += b_stride;
    }
  }
};

// Rows whose scores are held at a time: fewer for more keys.
struct RowBlockSize {
  int64_t keys;  // up to so many
  int64_t rows;
};
constexpr RowBlockSize kRowBlocks[] = {{128, 48}, {256, 24}, {1024, 12}, {INT64_MAX, 6}};

inline int64_t row_block(int64_t keys) {
  int i = 0;
  while (keys > kRowBlocks[i].keys) ++i;
  return kRowBlocks[i].rows;
}

// Enough for every number of keys up to `most`, for padding leaves a head with fewer.
int64_t score_floats(int64_t most) {
  int64_t floats = 0;
  for (const RowBlockSize& size : kRowBlocks) {
    const int64_t keys = most < size.keys ? most : size.keys;
    const int64_t needed = size.rows * round_up(keys, Simd::kWidth);
    floats = floats > needed ? floats : needed;
    if (most <= size.keys) break;
  }
  return floats;
}

// What a row's softmax leaves for the product with the values.
struct RowWeights {
  float inverse_sum;  // 0 for a row that sees no key
  float own;          // weight of the row's own position
};

// Asks for rows that will be needed soon, from memory into the second-level cache.
AXFORM_ALWAYS_INLINE void read_ahead(const Rows& rows, int64_t first, int64_t count, int64_t size) {
  if (rows.data == nullptr) return;
  const int64_t end = first + count < rows.count ? first + count : rows.count;
  for (int64_t i = first; i < end; ++i) {
    const char* row = reinterpret_cast<const char*>(rows.row(i));
    for (int64_t byte = 0; byte < size * 4; byte += 64) __builtin_prefetch(row + byte, 0, 2);
  }
}

template <int C>
inline void score_panel(const AttendTask& t, int64_t first, int64_t rows, const float* panel, float* scores,
                        int64_t score_stride) {
  constexpr int R = rows_for(C);
  for_tiles<R>(rows, [&](int64_t r, auto n) {
    constexpr int N = decltype(n)::value;
    if (panel == t.packed_keys) {
      read_ahead(t.next_queries, first + r, N, t.head_size);
      read_ahead(t.next_keys, first + r, N, t.head_size);
    }
    Tile<N, C> tile;
    tile.clear();
    tile.add_product(t.queries.row(first + r), t.queries.stride, panel, C * Simd::kWidth, t.head_size);
    for (int i = 0; i < N; ++i)
      for (int c = 0; c < C; ++c) Simd::store(scores + (r + i) * score_stride + c * Simd::kWidth, tile.sum[i][c]);
  });
}

inline void score_block(const AttendTask& t, int64_t first, int64_t rows, int64_t padded, float* scores) {
  for_spans(padded, [&](int64_t k, auto registers, int) {
    score_panel<decltype(registers)::value>(t, first, rows, t.packed_keys + k * t.head_size, scores + k, padded);
  });
}

inline float own_score(const AttendTask& t, int64_t row) {
  const float* q = t.queries.row(row);
  const float* k = t.own_key + row * t.own_key_stride;
  constexpr int W = Simd::kWidth;
  const int64_t full = t.head_size / W * W;
  Simd::Float sum = Simd::zero();
  for (int64_t d = 0; d < full; d += W) sum = Simd::fma(Simd::load(q + d), Simd::load(k + d), sum);
  float score = Simd::sum_of(sum);
  for (int64_t d = full; d < t.head_size; ++d) score += q[d] * k[d];
  return score * t.key_sign;
}

// Turns the scores of one row into exp2(factor * (score - largest)), in place, over its first `visible` keys. Equal
// scores give equal weights, since the factor comes last.
inline RowWeights softmax_row(float* x, int64_t visible, float factor, bool has_own, float own) {
  constexpr int W = Simd::kWidth;
  if (visible == 0 && !has_own) return {0.0f, 0.0f};
  const int64_t full = visible / W * W;
  const int tail = static_cast<int>(visible - full);
  const Simd::Float lowest = Simd::set1(-__builtin_inff());
  Simd::Float largest = has_own ? Simd::set1(own) : lowest;
  for (int64_t k = 0; k < full; k += W) largest = Simd::max(largest, Simd::load(x + k));
  if (tail != 0) {
    const Simd::Float last = Simd::keep_first(Simd::load(x + full), tail, lowest);
    Simd::store(x + full, last);
    largest = Simd::max(largest, last);
  }
  const Simd::Float factors = Simd::set1(factor);
  const Simd::Float base = Simd::set1(-factor * Simd::max_of(largest));
  Simd::Float sum = Simd::zero();
  for (int64_t k = 0; k < visible; k += W) {
    const Simd::Float p = Simd::exp2(Simd::fma(Simd::load(x + k), factors, base));
    Simd::store(x + k, p);
    sum = Simd::add(sum, p);
  }
  float total = Simd::sum_of(sum);
  float own_weight = 0.0f;
  if (has_own) {
    float lanes[W];
    Simd::store(lanes, Simd::exp2(Simd::fma(Simd::set1(own), factors, base)));
    own_weight = lanes[0];
    total += own_weight;
  }
  return {1.0f / total, own_weight};
}

// softmax_row for N rows that all see all keys: their chains of dependent instructions overlap.
template <int N>
AXFORM_ALWAYS_INLINE void softmax_tile(float* x, int64_t stride, int64_t keys, float factor, RowWeights* weights) {
  constexpr int W = Simd::kWidth;
  const int64_t full = keys / W * W;
  const int tail = static_cast<int>(keys - full);
  const Simd::Float lowest = Simd::set1(-__builtin_inff());
  Simd::Float base[N], sum[N];
  for (int i = 0; i < N; ++i) base[i] = lowest;
  for (int64_t k = 0; k < full; k += W)
    for (int i = 0; i < N; ++i) base[i] = Simd::max(base[i], Simd::load(x + i * stride + k));
  if (tail != 0) {
    for (int i = 0; i < N; ++i) {
      float* last = x + i * stride + full;
      Simd::store(last, Simd::keep_first(Simd::load(last), tail, lowest));
      base[i] = Simd::max(base[i], Simd::load(last));
    }
  }
  const Simd::Float factors = Simd::set1(factor);
  for (int i = 0; i < N; ++i) {
    base[i] = Simd::set1(-factor * Simd::max_of(base[i]));
    sum[i] = Simd::zero();
  }
  for (int64_t k = 0; k < keys; k += W) {
    for (int i = 0; i < N; ++i) {
      const Simd::Float p = Simd::exp2(Simd::fma(Simd::load(x + i * stride + k), factors, base[i]));
      Simd::store(x + i * stride + k, p);
      sum[i] = Simd::add(sum[i], p);
    }
  }
  for (int i = 0; i < N; ++i) weights[i] = {1.0f / Simd::sum_of(sum[i]), 0.0f};
}

// sum[i] += over keys (from..limit[i]) of p[i][k] * V[k]
template <int R, int C>
inline void add_uneven_rows(Tile<R, C>& tile, const int32_t* limit, int64_t from, const float* p, int64_t p_stride,
                            const float* values, int64_t value_stride) {
  for (int i = 0; i < R; ++i) {
    for (int64_t k = from; k < limit[i]; ++k) {
      const Simd::Float x = Simd::set1(p[i * p_stride + k]);
      for (int c = 0; c < C; ++c) {
        tile.sum[i][c] = Simd::fma(x, Simd::load(values + k * value_stride + c * Simd::kWidth), tile.sum[i][c]);
      }
    }
  }
}

// Output columns [column, column + C registers) of `rows` rows; `tail` columns of the last register exist.
template <int C, bool Causal>
inline void weigh_values(const AttendTask& t, int64_t first, int64_t rows, int64_t padded, const float* p,
                         const RowWeights* weights, int64_t column, int tail) {
  constexpr int W = Simd::kWidth;
  constexpr int R = rows_for(C);
  const int64_t value_stride = round_up(t.value_size, W);
  const float* values = t.packed_values + column;
  for_tiles<R>(rows, [&](int64_t r, auto n) {
    constexpr int N = decltype(n)::value;
    Tile<N, C> tile;
    tile.clear();
    const float* block = p + r * padded;
    if constexpr (Causal) {
      // Later keys carry no weight, but a weight of zero would still spread an infinity among the values.
      const int32_t* limit = t.limit + first + r;  // never falls from row to row
      tile.add_product(block, padded, values, value_stride, limit[0]);
      add_uneven_rows(tile, limit, limit[0], block, padded, values, value_stride);
      for (int i = 0; i < N; ++i) {
        const int64_t row = first + r + i;
        if (!t.own[row]) continue;
        const float* own = t.own_value + row * t.own_value_stride + column;
        const Simd::Float x = Simd::set1(weights[r + i].own);
        for (int c = 0; c < C; ++c) {
          const Simd::Float v =
              c == C - 1 && tail != W ? Simd::load_first(own + c * W, tail) : Simd::load(own + c * W);
          tile.sum[i][c] = Simd::fma(x, v, tile.sum[i][c]);
        }
      }
    } else {
      tile.add_product(block, padded, values, value_stride, t.keys);
    }
    for (int i = 0; i < N; ++i) {
      float* y = t.output + (first + r + i) * t.output_stride + column;
      const Simd::Float factor = Simd::set1(weights[r + i].inverse_sum);
      for (int c = 0; c < C - 1; ++c) Simd::store(y + c * W, Simd::mul(tile.sum[i][c], factor));
      const Simd::Float last = Simd::mul(tile.sum[i][C - 1], factor);
      if (tail == W) {
        Simd::store(y + (C - 1) * W, last);
      } else {
        Simd::store_first(y + (C - 1) * W, last, tail);
      }
    }
  });
}

template <bool Causal>
void attend_rows(const AttendTask& t) {
  const int64_t padded = round_up(t.keys, Simd::kWidth);
  const int64_t block = row_block(t.keys);
  RowWeights weights[48];
  for (int64_t first = 0; first < t.queries.count; first += block) {
    const int64_t rows = t.queries.count - first < block ? t.queries.count - first : block;
    score_block(t, first, rows, padded, t.scores);
    if constexpr (Causal) {
      for (int64_t r = 0; r < rows; ++r) {
        const bool own = t.own[first + r] != 0;
        const float score = own ? own_score(t, first + r) : 0.0f;
        weights[r] = softmax_row(t.scores + r * padded, t.limit[first + r], t.score_factor, own, score);
      }
    } else if (t.keys == 0) {
      for (int64_t r = 0; r < rows; ++r) weights[r] = {0.0f, 0.0f};
    } else {
      for_tiles<4>(rows, [&](int64_t r, auto n) {
        softmax_tile<decltype(n)::value>(t.scores + r * padded, padded, t.keys, t.score_factor, weights + r);
      });
    }
    for_spans(t.value_size, [&](int64_t column, auto registers, int tail) {
      weigh_values<decltype(registers)::value, Causal>(t, first, rows, padded, t.scores, weights, column, tail);
    });
  }
}

void attend(const AttendTask& t) {
  if (t.limit != nullptr) {
    attend_rows<true>(t);
  } else {
    attend_rows<false>(t);
  }
}

}  // namespace
}  // namespace axform::cpu
