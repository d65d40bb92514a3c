// First launch: the signs of all keys as bits, and how many queries of each chunk are positive in each element.
// One read of Q and K at memory speed; block (x, y) takes rows [256 x, 256 x + 256) of head y.
#pragma once

#include "device.h"
#include "problem.h"

namespace axform::cuda {

// Bit i: element first + i of the row is positive, for up to eight elements below `size`.
template <class T>
AXFORM_DEVICE uint32_t sign_byte(const T* row, int first, int size, bool vectors) {
  uint32_t byte = 0;
  if (vectors && first + 8 <= size) {
    struct alignas(16) Quad {
      uint32_t words[4];
    };
    T x[8];
    const Quad* source = reinterpret_cast<const Quad*>(row + first);
    Quad* target = reinterpret_cast<Quad*>(x);
    AXFORM_UNROLL
    for (int i = 0; i < static_cast<int>(sizeof(T) / 2); ++i) target[i] = source[i];
    AXFORM_UNROLL
    for (int i = 0; i < 8; ++i) byte |= static_cast<uint32_t>(to_float(x[i]) > 0.0f) << i;
    return byte;
  }
  for (int i = 0; i < 8 && first + i < size; ++i) {
    byte |= static_cast<uint32_t>(to_float(row[first + i]) > 0.0f) << i;
  }
  return byte;
}

template <class T>
AXFORM_KERNEL void AXFORM_LAUNCH_BOUNDS(kThreads) count_signs(AXFORM_ARGUMENT(Problem) p) {
  AXFORM_SHARED_MEMORY(memory);
  int* totals = reinterpret_cast<int*>(memory);
  const int batch_head = block_y();
  const int b = batch_head / p.heads;
  const int h = batch_head % p.heads;
  const uint8_t* mask = p.key_mask == nullptr ? nullptr : p.key_mask + static_cast<int64_t>(b) * p.keys;
  const int first_row = block_x() * kChunkRows;

  // Thread t looks at the eight elements of group t % groups in every (threads / groups)-th row.
  const int groups = p.sign_words * 4;
  const int rows_at_once = kThreads / groups;
  const int group = thread() % groups;
  const int first = thread() / groups;
  const bool busy = first < rows_at_once;

  for (int i = thread(); i < p.head_size; i += kThreads) totals[i] = 0;
  sync_block();

  const T* q = static_cast<const T*>(p.q) + b * p.q_strides.batch + h * p.q_strides.head;
  const int query_end = p.queries < first_row + kChunkRows ? p.queries : first_row + kChunkRows;
  const uint8_t* query_mask = p.queries == p.keys ? mask : nullptr;
  int counts[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  for (int i = first_row + first; busy && i < query_end; i += rows_at_once) {
    if (query_mask != nullptr && query_mask[i] == 0) continue;
    const uint32_t byte = sign_byte(q + i * p.q_strides.row, group * 8, p.head_size, p.vectors != 0);
    AXFORM_UNROLL
    for (int j = 0; j < 8; ++j) counts[j] += byte >> j & 1;
  }
  if (busy) {
    AXFORM_UNROLL
    for (int j = 0; j < 8; ++j) {
      if (group * 8 + j < p.head_size) add_atomic(totals + group * 8 + j, counts[j]);
    }
  }

  const T* k = static_cast<const T*>(p.k) + b * p.k_strides.batch + h * p.k_strides.head;
  uint8_t* signs = reinterpret_cast<uint8_t*>(p.key_signs + static_cast<int64_t>(batch_head) * p.keys * p.sign_words);
  const int key_end = p.keys < first_row + kChunkRows ? p.keys : first_row + kChunkRows;
  for (int i = first_row + first; busy && i < key_end; i += rows_at_once) {
    signs[static_cast<int64_t>(i) * groups + group] =
        static_cast<uint8_t>(sign_byte(k + i * p.k_strides.row, group * 8, p.head_size, p.vectors != 0));
  }

  sync_block();
  int* votes = p.votes + (static_cast<int64_t>(batch_head) * p.chunks + block_x()) * p.head_size;
  for (int i = thread(); i < p.head_size; i += kThreads) votes[i] = totals[i];
}

}  // namespace axform::cuda
