// First launch: the signs of all keys as bits, and for each chunk of rows how many queries are positive in each element
// and how many keys are real. One read of Q and K at memory speed; block (x, y) looks at chunk x of head y.
#pragma once

#include "device.h"
#include "problem.h"

namespace axform::cuda {

// Eight neighbouring elements of a row; zeros where there is no row or element.
template <class T>
struct Octet {
  static constexpr int kWords = static_cast<int>(2 * sizeof(T));
  uint32_t words[kWords / 4][4];

  AXFORM_DEVICE void read(const T* row, int first, int size, bool vectors) {
    AXFORM_UNROLL
    for (int i = 0; i < kWords; ++i) words[i / 4][i % 4] = 0;
    if (row == nullptr) return;
    if (vectors && first + 8 <= size) {
      AXFORM_UNROLL
      for (int i = 0; i < kWords / 4; ++i) read_only16(words[i], row + first + i * 16 / static_cast<int>(sizeof(T)));
      return;
    }
    T* target = reinterpret_cast<T*>(words);
    AXFORM_UNROLL
    for (int i = 0; i < 8; ++i) {
      if (first + i < size) target[i] = row[first + i];
    }
  }

  // Bit i: element i is positive.
  AXFORM_DEVICE uint32_t signs() const {
    const T* x = reinterpret_cast<const T*>(words);
    uint32_t byte = 0;
    AXFORM_UNROLL
    for (int i = 0; i < 8; ++i) byte |= static_cast<uint32_t>(to_float(x[i]) > 0.0f) << i;
    return byte;
  }
};

template <class T>
AXFORM_KERNEL void AXFORM_LAUNCH_BOUNDS_BLOCKS(kThreads, 4) count_signs(AXFORM_ARGUMENT(Problem) p) {
  AXFORM_SHARED_MEMORY(memory);
  int* totals = reinterpret_cast<int*>(memory);
  const int entries = p.head_size + 1;
  const int batch_head = block_y();
  const int b = batch_head / p.heads;
  const int h = batch_head % p.heads;
  const uint8_t* mask = p.key_mask == nullptr ? nullptr : p.key_mask + static_cast<int64_t>(b) * p.keys;
  const int chunk = block_x() * p.chunk_rows;

  // Thread t looks at the eight elements of group t % groups in every (threads / groups)-th row.
  const int groups = p.sign_words * 4;
  const int rows_at_once = kThreads / groups;
  const int group = thread() % groups;
  const int first = thread() / groups < rows_at_once ? chunk + thread() / groups : chunk + p.chunk_rows;
  Octet<T> octets[kRowsAhead];
  int real[kRowsAhead];  // looked at late, so that nothing waits for the mask
  auto read = [&](const T* rows, int64_t stride, int row, int end, const uint8_t* padding_mask) {
    AXFORM_UNROLL
    for (int j = 0; j < kRowsAhead; ++j) {
      const int i = row + j * rows_at_once;
      real[j] = i >= end ? 0 : padding_mask == nullptr ? 1 : read_only(padding_mask + i);
      octets[j].read(i < end ? rows + i * stride : nullptr, group * 8, p.head_size, p.vectors != 0);
    }
  };

  for (int i = thread(); i < entries; i += kThreads) totals[i] = 0;
  sync_block();

  const T* q = static_cast<const T*>(p.q) + b * p.q_strides.batch + h * p.q_strides.head;
  const int query_end = p.queries < chunk + p.chunk_rows ? p.queries : chunk + p.chunk_rows;
  int counts[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  for (int row = first; row < query_end; row += kRowsAhead * rows_at_once) {
    read(q, p.q_strides.row, row, query_end, p.queries == p.keys ? mask : nullptr);
    AXFORM_UNROLL
    for (int j = 0; j < kRowsAhead; ++j) {
      const uint32_t byte = real[j] != 0 ? octets[j].signs() : 0u;
      AXFORM_UNROLL
      for (int i = 0; i < 8; ++i) counts[i] += byte >> i & 1;
    }
  }
  AXFORM_UNROLL
  for (int i = 0; i < 8; ++i) {
    if (counts[i] != 0) add_atomic(totals + group * 8 + i, counts[i]);
  }

  const T* k = static_cast<const T*>(p.k) + b * p.k_strides.batch + h * p.k_strides.head;
  uint8_t* signs = reinterpret_cast<uint8_t*>(p.key_signs + static_cast<int64_t>(batch_head) * p.keys * p.sign_words);
  const int key_end = p.keys < chunk + p.chunk_rows ? p.keys : chunk + p.chunk_rows;
  int real_keys = 0;
  for (int row = first; row < key_end; row += kRowsAhead * rows_at_once) {
    read(k, p.k_strides.row, row, key_end, mask);
    AXFORM_UNROLL
    for (int j = 0; j < kRowsAhead; ++j) {
      const int i = row + j * rows_at_once;
      if (i >= key_end) continue;
      signs[static_cast<int64_t>(i) * groups + group] = static_cast<uint8_t>(octets[j].signs());
      real_keys += real[j] != 0;
    }
  }
  if (group == 0 && real_keys != 0) add_atomic(totals + p.head_size, real_keys);

  sync_block();
  int* votes = p.votes + (static_cast<int64_t>(batch_head) * p.chunks + block_x()) * entries;
  for (int i = thread(); i < entries; i += kThreads) votes[i] = totals[i];
}

}  // namespace axform::cuda
