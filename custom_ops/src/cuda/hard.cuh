// Hard attention in one launch: a warp computes all scores of a query row into shared memory, finds the smallest
// probability that is kept digit by digit, and weighs the values of what is kept.
#pragma once

#include "device.h"
#include "problem.h"

namespace axform::cuda {

constexpr int kHardThreads = kHardWarps * 32;

// The bits of a probability, which order like the probability: it is not negative.
AXFORM_DEVICE uint32_t bits_of(float x) {
  union {
    float number;
    uint32_t bits;
  } both;
  both.number = x;
  return both.bits;
}

// The bin in which the `wanted`-th entry from the top lies (bits 0-15), and in `left` which one of that bin's it is.
AXFORM_DEVICE int bin_from_top(const int* histogram, int wanted, int& left) {
  constexpr int kEach = kBins / 32;
  const int top = kBins - 1 - lane() * kEach;
  int sum = 0;
  for (int i = 0; i < kEach; ++i) sum += histogram[top - i];
  int before = sum;
  for (int by = 1; by < 32; by *= 2) {
    const int lower = shuffle_up(before, by);
    if (lane() >= by) before += lower;
  }
  before -= sum;
  int bin = 0, which = 0;
  if (before < wanted && wanted <= before + sum) {
    bin = top;
    for (; before + histogram[bin] < wanted; --bin) before += histogram[bin];
    which = wanted - before;
  }
  for (int by = 16; by > 0; by /= 2) {
    bin |= shuffle_xor(bin, by);
    which |= shuffle_xor(which, by);
  }
  left = which;
  return bin;
}

template <class T>
AXFORM_KERNEL void AXFORM_LAUNCH_BOUNDS_BLOCKS(kHardThreads, 8) attend_hard(AXFORM_ARGUMENT(Problem) p) {
  AXFORM_SHARED_MEMORY(memory);
  float* scores = reinterpret_cast<float*>(memory) + warp() * hard_warp_floats(p.keys);
  int* histogram = reinterpret_cast<int*>(scores + (p.keys + 3) / 4 * 4);
  float* query = reinterpret_cast<float*>(histogram + kBins);
  const int batch_head = block_y();
  const int b = batch_head / p.heads;
  const int h = batch_head % p.heads;
  const T* q = static_cast<const T*>(p.q) + b * p.q_strides.batch + h * p.q_strides.head;
  const T* k = static_cast<const T*>(p.k) + b * p.k_strides.batch + h * p.k_strides.head;
  const T* v = static_cast<const T*>(p.v) + b * p.v_strides.batch + h * p.v_strides.head;
  T* y = static_cast<T*>(p.y) + b * p.y_strides.batch + h * p.y_strides.head;
  const uint8_t* mask = p.key_mask == nullptr ? nullptr : p.key_mask + static_cast<int64_t>(b) * p.keys;

  for (int row = block_x() * kHardWarps + warp(); row < p.queries; row += grid_x() * kHardWarps) {
    sync_warp();
    for (int c = lane(); c < p.head_size; c += 32) query[c] = to_float(q[row * p.q_strides.row + c]);
    sync_warp();
    const int end = p.causal != 0 ? row + 1 : p.keys;
    float largest = -INFINITY;
    int visible = 0;
    for (int key = lane(); key - lane() < end; key += 32) {
      const bool seen = key < end && (mask == nullptr || mask[key] != 0);
      float score = -INFINITY;
      if (seen) {
        score = 0.0f;
        for (int c = 0; c < p.head_size; ++c) score += query[c] * to_float(k[key * p.k_strides.row + c]);
        score *= p.scale_log2;
      }
      if (key < end) scores[key] = score;
      largest = fmaxf(largest, score);
      visible += bit_count(ballot(seen));
    }
    for (int by = 16; by > 0; by /= 2) largest = fmaxf(largest, shuffle_xor(largest, by));
    const float base = largest == -INFINITY ? 0.0f : largest;
    sync_warp();
    float sum = 0.0f;
    for (int key = lane(); key < end; key += 32) {
      const bool seen = mask == nullptr || mask[key] != 0;
      const float weight = seen ? exp2_fast(scores[key] - base) : 0.0f;
      scores[key] = seen ? weight : -1.0f;  // below every probability
      sum += weight;
    }
    for (int by = 16; by > 0; by /= 2) sum += shuffle_xor(sum, by);
    sync_warp();

    uint32_t smallest = 0;  // the last kept probability, and how many that equal it are kept
    int ties = visible;
    if (p.select_all == 0 && visible > p.kept) {
      ties = p.kept;
      for (int shift = 24; shift >= 0; shift -= 8) {
        for (int bin = lane(); bin < kBins; bin += 32) histogram[bin] = 0;
        sync_warp();
        for (int key = lane(); key < end; key += 32) {
          const uint32_t bits = bits_of(scores[key]);
          const bool candidate = scores[key] >= 0.0f && (shift == 24 || bits >> (shift + 8) == smallest);
          if (candidate) add_atomic(histogram + (bits >> shift & 255), 1);
        }
        sync_warp();
        int left = 0;
        smallest = smallest << 8 | static_cast<uint32_t>(bin_from_top(histogram, ties, left));
        ties = left;
        sync_warp();
      }
    }
    // Kept weights stay, all others become 0 and are skipped.
    for (int key = lane(); key - lane() < end; key += 32) {
      const float weight = key < end ? scores[key] : -1.0f;
      const uint32_t bits = bits_of(weight);
      const bool tied = weight >= 0.0f && bits == smallest;
      const uint32_t all = ballot(tied);
      const bool kept = weight >= 0.0f && (bits > smallest || (tied && bit_count(all & ((1u << lane()) - 1u)) < ties));
      if (key < end && !kept) scores[key] = 0.0f;
      ties -= bit_count(all);
    }
    sync_warp();
    const float factor = sum == 0.0f ? 0.0f : 1.0f / sum;
    for (int first = 0; first < p.value_size; first += 32) {
      const int c = first + lane();
      float total = 0.0f;
      for (int key = 0; key < end; ++key) {
        const float weight = scores[key];
        if (weight > 0.0f && c < p.value_size) total += weight * to_float(v[key * p.v_strides.row + c]);
      }
      if (c < p.value_size) y[row * p.y_strides.row + c] = from_float<T>(sum == sum ? total * factor : sum);
    }
  }
}

}  // namespace axform::cuda
