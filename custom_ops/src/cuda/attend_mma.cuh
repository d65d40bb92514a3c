// Second launch in half precision: selection, then attention on the tensor cores with float32 accumulation.
//
// A warp owns 16 query rows. Scores stay in its registers, where they become the left operand of the product with the
// values; keys and values of the selected positions lie in shared memory, gathered there straight from Q, K and V.
// Fragment layouts: PTX ISA, "Matrix fragments for mma.m16n8k16".
#pragma once

#include "device.h"
#include "problem.h"
#include "select.cuh"

namespace axform::cuda {

// Rows of the selected keys from `first` on, one tile of them, to shared memory; zeros where there is no key or element.
template <class T, int Padded>
AXFORM_DEVICE void gather_rows(T* shared, const T* rows, int64_t row_stride, int size, const int* index, int first,
                               int selected) {
  constexpr int kPieces = Padded / 8;
  AXFORM_UNROLL_BY(1)
  for (int i = thread(); i < kTileKeys * kPieces; i += kThreads) {
    const int key = i / kPieces;
    const int element = i % kPieces * 8;
    T* target = shared + key * tile_stride(Padded) + element;
    if (first + key < selected && element < size) {
      copy16_async(target, rows + index[first + key] * row_stride + element);
    } else {
      AXFORM_UNROLL
      for (int j = 0; j < 4; ++j) reinterpret_cast<uint32_t*>(target)[j] = 0;
    }
  }
}

// A 16x16 piece of Q as the left operand: rows `row` and row + 8 of this thread, columns from `column`.
template <class T>
AXFORM_DEVICE void load_query(uint32_t (&a)[4], const T* q, int64_t stride, int row, int rows, int column, int size) {
  AXFORM_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int r = row + i * 8;
    const int c = column + lane() % 4 * 2;
    const T* source = q + r * stride + c;
    a[i] = r < rows && c < size ? *reinterpret_cast<const uint32_t*>(source) : 0u;
    a[i + 2] = r < rows && c + 8 < size ? *reinterpret_cast<const uint32_t*>(source + 8) : 0u;
  }
}

template <class T, int Padded, bool Causal>
struct RowBlock {
  static constexpr int kTile = kTileKeys;
  static constexpr int kSteps = Padded / 16;   // of the product over the head size
  static constexpr int kColumns = Padded / 8;  // output tiles
  static constexpr bool kKeepQuery = Padded <= 64;  // else read again for each tile, from the cache
  static constexpr int kUnroll = kKeepQuery ? kSteps : 1;

  uint32_t query[kKeepQuery ? kSteps : 1][4];
  float output[kColumns][4];
  float largest[2];  // of the thread's two rows, in base 2
  float sum[2];      // of the thread's columns; four threads share a row
  int limit[2];      // selected keys that the rows see

  // What a row's own position contributes, or nothing.
  AXFORM_DEVICE void start(const Problem& p, const T* q, const T* k, const T* v, int b, int row, const int* index,
                           int selected) {
    if constexpr (kKeepQuery) {
      AXFORM_UNROLL
      for (int s = 0; s < kSteps; ++s) load_query(query[s], q, p.q_strides.row, row, p.queries, s * 16, p.head_size);
    }
    AXFORM_UNROLL
    for (int i = 0; i < 2; ++i) {
      largest[i] = -INFINITY;
      sum[i] = 0.0f;
      limit[i] = selected;
      AXFORM_UNROLL
      for (int n = 0; n < kColumns; ++n) output[n][2 * i] = output[n][2 * i + 1] = 0.0f;
      if constexpr (Causal) {
        const int r = row + i * 8;
        const CausalRow seen = causal_row(p, b, r, index, selected);
        const bool own = seen.own;
        limit[i] = seen.limit;
        float score = 0.0f;
        AXFORM_UNROLL_BY(1)
        for (int c = lane() % 4 * 2; own && c < p.head_size; c += 8) {
          score += to_float(q[r * p.q_strides.row + c]) * to_float(k[r * p.k_strides.row + c]);
          score += to_float(q[r * p.q_strides.row + c + 1]) * to_float(k[r * p.k_strides.row + c + 1]);
        }
        score += shuffle_xor(score, 1);
        score += shuffle_xor(score, 2);
        if (!own) continue;
        largest[i] = score * p.scale_log2;
        sum[i] = lane() % 4 == 0 ? 1.0f : 0.0f;
        const T* value = v + r * p.v_strides.row + lane() % 4 * 2;
        AXFORM_UNROLL
        for (int n = 0; n < kColumns; ++n) {
          if (n * 8 + lane() % 4 * 2 < p.value_size) {
            const uint32_t both = *reinterpret_cast<const uint32_t*>(value + n * 8);
            output[n][2 * i] = low_half<T>(both);
            output[n][2 * i + 1] = high_half<T>(both);
          }
        }
      }
    }
  }

  // One tile of keys: online softmax (arXiv 1805.02867).
  AXFORM_DEVICE void add_tile(const Problem& p, const T* q, int row, const T* keys, const T* values, int first,
                              int selected) {
    constexpr int kStride = tile_stride(Padded);
    const int matrix = lane() / 8;
    const int matrix_row = lane() % 8;
    float scores[kTile / 8][4];
    AXFORM_UNROLL
    for (int n = 0; n < kTile / 8; ++n) {
      AXFORM_UNROLL
      for (int i = 0; i < 4; ++i) scores[n][i] = 0.0f;
    }
    AXFORM_UNROLL_BY(kUnroll)
    for (int s = 0; s < kSteps; ++s) {
      uint32_t reloaded[4];
      if constexpr (!kKeepQuery) load_query(reloaded, q, p.q_strides.row, row, p.queries, s * 16, p.head_size);
      const uint32_t(&a)[4] = kKeepQuery ? query[kKeepQuery ? s : 0] : reloaded;
      AXFORM_UNROLL
      for (int n = 0; n < kTile / 8; n += 2) {
        uint32_t k[4];
        load_matrices(k, keys + ((n + matrix / 2) * 8 + matrix_row) * kStride + s * 16 + matrix % 2 * 8);
        multiply_add<T>(scores[n], a, k[0], k[1]);
        multiply_add<T>(scores[n + 1], a, k[2], k[3]);
      }
    }

    if (Causal || first + kTile > selected) {
      AXFORM_UNROLL
      for (int n = 0; n < kTile / 8; ++n) {
        AXFORM_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int key = first + n * 8 + lane() % 4 * 2 + i % 2;
          if (key >= (Causal ? limit[i / 2] : selected)) scores[n][i] = p.scale_log2 < 0.0f ? INFINITY : -INFINITY;
        }
      }
    }
    float tile_largest[2] = {-INFINITY, -INFINITY};
    AXFORM_UNROLL
    for (int n = 0; n < kTile / 8; ++n) {
      AXFORM_UNROLL
      for (int i = 0; i < 4; ++i) tile_largest[i / 2] = fmaxf(tile_largest[i / 2], scores[n][i] * p.scale_log2);
    }
    float base[2];
    AXFORM_UNROLL
    for (int i = 0; i < 2; ++i) {
      tile_largest[i] = fmaxf(tile_largest[i], shuffle_xor(tile_largest[i], 1));
      tile_largest[i] = fmaxf(tile_largest[i], shuffle_xor(tile_largest[i], 2));
      const float larger = fmaxf(largest[i], tile_largest[i]);
      base[i] = larger == -INFINITY ? 0.0f : larger;
      const float factor = exp2_fast(largest[i] - base[i]);
      largest[i] = larger;
      sum[i] *= factor;
      AXFORM_UNROLL
      for (int n = 0; n < kColumns; ++n) {
        output[n][2 * i] *= factor;
        output[n][2 * i + 1] *= factor;
      }
    }
    AXFORM_UNROLL
    for (int n = 0; n < kTile / 8; ++n) {
      AXFORM_UNROLL
      for (int i = 0; i < 4; ++i) {
        scores[n][i] = exp2_fast(scores[n][i] * p.scale_log2 - base[i / 2]);
        sum[i / 2] += scores[n][i];
      }
    }

    AXFORM_UNROLL
    for (int s = 0; s < kTile / 16; ++s) {
      const uint32_t a[4] = {pack2<T>(scores[2 * s][0], scores[2 * s][1]), pack2<T>(scores[2 * s][2], scores[2 * s][3]),
                             pack2<T>(scores[2 * s + 1][0], scores[2 * s + 1][1]),
                             pack2<T>(scores[2 * s + 1][2], scores[2 * s + 1][3])};
      AXFORM_UNROLL
      for (int n = 0; n < kColumns; n += 2) {
        uint32_t v[4];
        load_matrices_transposed(
            v, values + (s * 16 + matrix % 2 * 8 + matrix_row) * kStride + (n + matrix / 2) * 8);
        multiply_add<T>(output[n], a, v[0], v[1]);
        multiply_add<T>(output[n + 1], a, v[2], v[3]);
      }
    }
  }

  AXFORM_DEVICE void store(const Problem& p, T* y, int row) const {
    AXFORM_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int r = row + i * 8;
      float total = sum[i] + shuffle_xor(sum[i], 1);
      total += shuffle_xor(total, 2);
      if (r >= p.queries) continue;
      const float factor = total == 0.0f ? 0.0f : 1.0f / total;
      T* target = y + r * p.y_strides.row + lane() % 4 * 2;
      AXFORM_UNROLL
      for (int n = 0; n < kColumns; ++n) {
        if (n * 8 + lane() % 4 * 2 < p.value_size) {
          *reinterpret_cast<uint32_t*>(target + n * 8) =
              pack2<T>(output[n][2 * i] * factor, output[n][2 * i + 1] * factor);
        }
      }
    }
  }
};

template <class T, int Padded, bool Causal>
AXFORM_KERNEL void AXFORM_LAUNCH_BOUNDS_BLOCKS(kThreads, Padded <= 64 ? 2 : 1) attend_mma(AXFORM_ARGUMENT(Problem) p) {
  AXFORM_SHARED_MEMORY(memory);
  SelectShared& shared = *reinterpret_cast<SelectShared*>(memory);
  int* index = reinterpret_cast<int*>(memory + sizeof(SelectShared));
  const int index_entries = (p.select_all != 0 ? p.keys : p.kept) + 3;
  unsigned char* rest = reinterpret_cast<unsigned char*>(index + index_entries / 4 * 4);
  T* tiles = reinterpret_cast<T*>(rest);  // the ranks are gone when the tiles come

  const int batch_head = block_y();
  const int b = batch_head / p.heads;
  const int h = batch_head % p.heads;
  const int selected =
      select_keys<kThreads>(p, shared, p.cache_ranks != 0 ? reinterpret_cast<uint32_t*>(rest) : nullptr, index);

  const T* q = static_cast<const T*>(p.q) + b * p.q_strides.batch + h * p.q_strides.head;
  const T* k = static_cast<const T*>(p.k) + b * p.k_strides.batch + h * p.k_strides.head;
  const T* v = static_cast<const T*>(p.v) + b * p.v_strides.batch + h * p.v_strides.head;
  T* y = static_cast<T*>(p.y) + b * p.y_strides.batch + h * p.y_strides.head;
  constexpr int kElements = tile_elements(Padded);
  constexpr int kHalf = kElements / 2;
  const bool resident = selected <= p.resident_tiles * kTileKeys;

  auto gather = [&](int first_key, T* target) {
    gather_rows<T, Padded>(target, k, p.k_strides.row, p.head_size, index, first_key, selected);
    gather_rows<T, Padded>(target + kHalf, v, p.v_strides.row, p.value_size, index, first_key, selected);
  };
  if (resident) {
    for (int key = 0; key < selected; key += kTileKeys) gather(key, tiles + key / kTileKeys * kElements);
    wait_for_copies();
    sync_block();
  }
  constexpr int kRows = 16 * kWarps;
  for (int first_row = block_x() * kRows; first_row < p.queries; first_row += grid_x() * kRows) {
    const int row = first_row + warp() * 16 + lane() / 4;
    RowBlock<T, Padded, Causal> rows;
    rows.start(p, q, k, v, b, row, index, selected);
    T* keys = tiles;
    for (int key = 0; key < selected; key += kTileKeys) {
      if (!resident) {
        sync_block();
        gather(key, tiles);
        wait_for_copies();
        sync_block();
      }
      rows.add_tile(p, q, row, keys, keys + kHalf, key, selected);
      if (resident) keys += kElements;
    }
    rows.store(p, y, row);
  }
}

}  // namespace axform::cuda
