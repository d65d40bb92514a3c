// Second launch in float32, and in half precision where the tensor cores cannot be used: plain multiply-adds.
//
// A warp owns a few query rows. Its lanes stand for keys while it computes scores, and for value columns while it
// weighs values. K and V tiles, the warp's queries and its weights lie in shared memory as float32.
#pragma once

#include "device.h"
#include "problem.h"
#include "select.cuh"

namespace axform::cuda {

// Padded: head sizes rounded up to 64, 128 or 256.
template <class T, int Padded>
AXFORM_KERNEL void AXFORM_LAUNCH_BOUNDS_BLOCKS(SimtShape::kThreadCount, 2) attend_simt(AXFORM_ARGUMENT(Problem) p) {
  constexpr SimtShape kShape(Padded);
  constexpr int kRows = kShape.rows;
  constexpr int kKeys = kShape.keys;
  constexpr int kKeyStride = kShape.key_stride;
  constexpr int kKeysPerLane = kKeys / 32;
  constexpr int kColumnsPerLane = Padded / 32;
  AXFORM_SHARED_MEMORY(memory);
  SelectShared& shared = *reinterpret_cast<SelectShared*>(memory);
  int* index = reinterpret_cast<int*>(memory + sizeof(SelectShared));
  const int index_entries = (p.select_all != 0 ? p.keys : p.kept) + 3;
  float* rest = reinterpret_cast<float*>(index + index_entries / 4 * 4);
  float* queries = rest + warp() * kRows * Padded;  // [element][row]
  float* weights = rest + SimtShape::kWarpCount * kRows * Padded + warp() * kRows * kKeys;  // [key][row]
  float* values = rest + SimtShape::kWarpCount * kRows * (Padded + kKeys);                   // [key][column]
  float* keys = values + kKeys * Padded;                                                 // [key][element]

  const int batch_head = block_y();
  const int b = batch_head / p.heads;
  const int h = batch_head % p.heads;
  const int selected = select_keys<SimtShape::kThreadCount>(
      p, shared, p.cache_ranks != 0 ? reinterpret_cast<uint32_t*>(rest) : nullptr, index);

  const T* q = static_cast<const T*>(p.q) + b * p.q_strides.batch + h * p.q_strides.head;
  const T* k = static_cast<const T*>(p.k) + b * p.k_strides.batch + h * p.k_strides.head;
  const T* v = static_cast<const T*>(p.v) + b * p.v_strides.batch + h * p.v_strides.head;
  T* y = static_cast<T*>(p.y) + b * p.y_strides.batch + h * p.y_strides.head;
  const int tile_count = (selected + kKeys - 1) / kKeys;

  auto gather = [&](int tile) {
    for (int i = thread(); i < kKeys * Padded; i += SimtShape::kThreadCount) {
      const int key = i / Padded;
      const int c = i % Padded;
      const bool exists = tile * kKeys + key < selected;
      const int64_t row = exists ? index[tile * kKeys + key] : 0;
      keys[key * kKeyStride + c] = exists && c < p.head_size ? to_float(k[row * p.k_strides.row + c]) : 0.0f;
      values[key * Padded + c] = exists && c < p.value_size ? to_float(v[row * p.v_strides.row + c]) : 0.0f;
    }
  };
  if (tile_count == 1) {
    gather(0);
    sync_block();
  }

  constexpr int kBlockRows = kRows * SimtShape::kWarpCount;
  for (int block_row = block_x() * kBlockRows; block_row < p.queries; block_row += grid_x() * kBlockRows) {
    const int first = block_row + warp() * kRows;
    sync_warp();
    for (int i = lane(); i < kRows * p.head_size; i += 32) {
      const int r = i / p.head_size;
      const int c = i % p.head_size;
      queries[c * kRows + r] = first + r < p.queries ? to_float(q[(first + r) * p.q_strides.row + c]) : 0.0f;
    }
    sync_warp();

    CausalRow seen{selected, false};  // of row first + lane
    if (p.causal != 0 && lane() < kRows) seen = causal_row(p, b, first + lane(), index, selected);
    const unsigned own_rows = ballot(seen.own);

    float output[kRows][kColumnsPerLane];
    float largest[kRows], sum[kRows];
    AXFORM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int row = first + r;
      const bool own = (own_rows >> r & 1) != 0;
      float score = 0.0f;
      if (p.causal != 0) {
        for (int c = lane(); own && c < p.head_size; c += 32) {
          score += queries[c * kRows + r] * to_float(k[row * p.k_strides.row + c]);
        }
        for (int by = 16; by > 0; by /= 2) score += shuffle_xor(score, by);
      }
      largest[r] = own ? score * p.scale_log2 : -INFINITY;
      sum[r] = own ? 1.0f : 0.0f;
      AXFORM_UNROLL
      for (int j = 0; j < kColumnsPerLane; ++j) {
        const int c = lane() + 32 * j;
        output[r][j] = own && c < p.value_size ? to_float(v[row * p.v_strides.row + c]) : 0.0f;
      }
    }

    for (int tile = 0; tile < tile_count; ++tile) {
      if (tile_count > 1) {
        sync_block();
        gather(tile);
        sync_block();
      }
      float scores[kKeysPerLane][kRows];
      AXFORM_UNROLL
      for (int j = 0; j < kKeysPerLane; ++j) {
        AXFORM_UNROLL
        for (int r = 0; r < kRows; ++r) scores[j][r] = 0.0f;
      }
      AXFORM_UNROLL_BY(2)
      for (int c = 0; c < p.head_size; ++c) {
        float x[kRows];
        AXFORM_UNROLL
        for (int r = 0; r < kRows; ++r) x[r] = queries[c * kRows + r];
        AXFORM_UNROLL
        for (int j = 0; j < kKeysPerLane; ++j) {
          const float key = keys[(lane() + 32 * j) * kKeyStride + c];
          AXFORM_UNROLL
          for (int r = 0; r < kRows; ++r) scores[j][r] += x[r] * key;
        }
      }
      AXFORM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const int limit = p.causal != 0 ? shuffle_from(seen.limit, r) : selected;
        float tile_largest = -INFINITY;
        AXFORM_UNROLL
        for (int j = 0; j < kKeysPerLane; ++j) {
          const int key = tile * kKeys + lane() + 32 * j;
          scores[j][r] = key < limit ? scores[j][r] * p.scale_log2 : -INFINITY;
          tile_largest = fmaxf(tile_largest, scores[j][r]);
        }
        for (int by = 16; by > 0; by /= 2) tile_largest = fmaxf(tile_largest, shuffle_xor(tile_largest, by));
        const float larger = fmaxf(largest[r], tile_largest);
        const float base = larger == -INFINITY ? 0.0f : larger;
        const float factor = exp2_fast(largest[r] - base);
        largest[r] = larger;
        float tile_sum = 0.0f;
        AXFORM_UNROLL
        for (int j = 0; j < kKeysPerLane; ++j) {
          const float weight = exp2_fast(scores[j][r] - base);
          weights[(lane() + 32 * j) * kRows + r] = weight;
          tile_sum += weight;
        }
        for (int by = 16; by > 0; by /= 2) tile_sum += shuffle_xor(tile_sum, by);
        sum[r] = sum[r] * factor + tile_sum;
        AXFORM_UNROLL
        for (int j = 0; j < kColumnsPerLane; ++j) output[r][j] *= factor;
      }
      sync_warp();
      const int end = selected - tile * kKeys < kKeys ? selected - tile * kKeys : kKeys;
      AXFORM_UNROLL_BY(2)
      for (int key = 0; key < end; ++key) {
        float x[kRows];
        AXFORM_UNROLL
        for (int r = 0; r < kRows; ++r) x[r] = weights[key * kRows + r];
        AXFORM_UNROLL
        for (int j = 0; j < kColumnsPerLane; ++j) {
          const float value = values[key * Padded + lane() + 32 * j];
          AXFORM_UNROLL
          for (int r = 0; r < kRows; ++r) output[r][j] += x[r] * value;
        }
      }
      sync_warp();
    }

    AXFORM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const float factor = sum[r] == 0.0f ? 0.0f : 1.0f / sum[r];
      AXFORM_UNROLL
      for (int j = 0; j < kColumnsPerLane; ++j) {
        const int c = lane() + 32 * j;
        if (first + r < p.queries && c < p.value_size) {
          y[(first + r) * p.y_strides.row + c] = from_float<T>(output[r][j] * factor);
        }
      }
    }
  }
}

}  // namespace axform::cuda
