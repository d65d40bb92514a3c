#include "plan.h"

#include <algorithm>
#include <string>

namespace axform::cuda {
namespace {

constexpr float kLog2E = 1.4426950408889634f;

int divide_up(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }
int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }

HeadStrides copy(const Strides& s) { return {s.batch, s.head, s.row}; }

bool aligned(const void* pointer, const Strides& s, int64_t element_bytes) {
  const int64_t steps[] = {s.batch * element_bytes, s.head * element_bytes, s.row * element_bytes};
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 &&
         std::all_of(std::begin(steps), std::end(steps), [](int64_t step) { return step % 16 == 0; });
}

Problem describe(const AttentionAttributes& a, const AttentionShape& s, Element element, const TensorPointers& t) {
  if (s.head_size > kMaxHeadSize || s.value_size > kMaxHeadSize) {
    throw OpError{a.place + ": head sizes up to " + std::to_string(kMaxHeadSize) +
                  " run on CUDA; place this node on the CPU execution provider"};
  }
  if (s.batch_heads() > 65535) {
    throw OpError{a.place + ": batch * heads = " + std::to_string(s.batch_heads()) +
                  " is more than the 65535 that a CUDA grid holds; split the batch"};
  }
  Problem p{};
  p.q = t.q;
  p.k = t.k;
  p.v = t.v;
  p.key_mask = t.key_mask;
  p.y = t.y;
  p.q_strides = copy(s.q);
  p.k_strides = copy(s.k);
  p.v_strides = copy(s.v);
  p.y_strides = copy(s.y);
  p.batch = static_cast<int>(s.batch);
  p.heads = static_cast<int>(s.heads);
  p.queries = static_cast<int>(s.queries);
  p.keys = static_cast<int>(s.keys);
  p.head_size = static_cast<int>(s.head_size);
  p.value_size = static_cast<int>(s.value_size);
  p.kept = static_cast<int>(a.k);
  p.select_all = s.keys <= a.k;
  p.by_count = a.selection == Selection::kCount;
  p.causal = a.causal;
  p.prefix = a.prefix;
  p.scale_log2 = s.scale * kLog2E;
  const int64_t bytes = element == Element::kFloat32 ? 4 : 2;
  p.vectors = s.head_size % 8 == 0 && s.value_size % 8 == 0 && aligned(t.q, s.q, bytes) && aligned(t.k, s.k, bytes) &&
              aligned(t.v, s.v, bytes) && aligned(t.y, s.y, bytes);
  return p;
}

// Blocks a head, so that all blocks run at once and each does as many rounds of rows as the others: every one repeats
// the selection, and one more than fits at a time would have the device wait for it alone.
int blocks_for(const AttentionShape& s, int rows_per_block, int at_once) {
  const int row_blocks = divide_up(s.queries, rows_per_block);
  const int most = std::max<int>(1, at_once / static_cast<int>(s.batch_heads()));
  return divide_up(row_blocks, divide_up(row_blocks, most));
}

// Rows of a chunk of the first launch: about four blocks for each multiprocessor, and whole steps of a block's threads.
int chunk_rows(const AttentionShape& s, int sign_words, const DeviceLimits& limits) {
  const int64_t step = int64_t{kThreads} / (4 * sign_words) * kRowsAhead;
  const int64_t rows = std::max(s.queries, s.keys);
  return static_cast<int>(round_up(std::max<int64_t>(1, divide_up(rows * s.batch_heads(), 4 * limits.multiprocessors)), step));
}

[[noreturn]] void too_large(const AttentionAttributes& a, int64_t needed, const DeviceLimits& limits) {
  throw OpError{a.place + ": needs " + std::to_string(needed) + " bytes of shared memory, but this GPU offers " +
                std::to_string(limits.shared_bytes) + "; lower k, or place this node on the CPU execution provider"};
}

}  // namespace

LaunchPlan plan_sign_matching(const AttentionAttributes& a, const AttentionShape& s, Element element,
                              const TensorPointers& tensors, const DeviceLimits& limits) {
  LaunchPlan plan{};
  Problem& p = plan.problem;
  p = describe(a, s, element, tensors);
  const int widest = static_cast<int>(std::max(s.head_size, s.value_size));
  plan.padded = widest <= 64 ? 64 : widest <= 128 ? 128 : 256;
  plan.tensor_cores = p.vectors && (element == Element::kFloat16
                                        ? limits.compute_capability >= 75
                                        : element == Element::kBFloat16 && limits.compute_capability >= 80);
  p.sign_words = divide_up(p.head_size, 32);
  p.chunk_rows = std::min(chunk_rows(s, p.sign_words, limits), std::max(p.queries, p.keys));
  p.chunks = divide_up(std::max(p.queries, p.keys), p.chunk_rows);
  if (!p.select_all) {
    plan.signs_bytes = static_cast<size_t>(s.batch_heads()) * p.keys * p.sign_words * sizeof(uint32_t);
    plan.votes_bytes = static_cast<size_t>(s.batch_heads()) * p.chunks * (p.head_size + 1) * sizeof(int);
  }

  const int64_t index_bytes = round_up(std::min<int64_t>(a.k, s.keys), 4) * 4;
  const int64_t fixed = static_cast<int64_t>(sizeof(SelectShared)) + index_bytes;
  int64_t work;  // tiles, or everything that the float32 kernel keeps
  int rows_per_block;
  if (plan.tensor_cores) {
    plan.threads = kThreads;
    rows_per_block = 16 * kWarps;
    const int64_t tile = int64_t{2} * tile_elements(plan.padded);  // two bytes each
    const int64_t tiles = divide_up(std::min<int64_t>(a.k, s.keys), kTileKeys);
    const int64_t budget = std::min(limits.shared_bytes, 112 * 1024) - fixed;  // two blocks a multiprocessor on 9.0
    p.resident_tiles = static_cast<int>(std::clamp<int64_t>(budget / tile, 1, std::max<int64_t>(tiles, 1)));
    work = p.resident_tiles * tile;
  } else {
    const SimtShape shape(plan.padded);
    plan.threads = SimtShape::kThreadCount;
    rows_per_block = shape.rows * SimtShape::kWarpCount;
    work = int64_t{4} * shape.floats;
  }
  const int64_t rank_bytes = p.select_all ? 0 : int64_t{4} * p.keys;
  p.cache_ranks = rank_bytes > 0 && fixed + rank_bytes <= std::min(limits.shared_bytes, 64 * 1024 + static_cast<int>(fixed));
  const int64_t needed = fixed + std::max(work, p.cache_ranks ? rank_bytes : 0);
  if (needed > limits.shared_bytes) too_large(a, needed, limits);
  plan.shared_bytes = static_cast<int>(needed);
  const int by_registers = plan.tensor_cores && plan.padded > 64 ? 1 : 2;
  const int by_memory = static_cast<int>(std::max<int64_t>(1, limits.shared_bytes / (needed + 1024)));
  plan.blocks = blocks_for(s, rows_per_block, std::min(by_registers, by_memory) * limits.multiprocessors);
  return plan;
}

LaunchPlan plan_hard_attention(const AttentionAttributes& a, const AttentionShape& s, Element element,
                               const TensorPointers& tensors, const DeviceLimits& limits) {
  LaunchPlan plan{};
  plan.problem = describe(a, s, element, tensors);
  const int64_t needed = int64_t{4} * kHardWarps * hard_warp_floats(s.keys);
  if (needed > limits.shared_bytes) too_large(a, needed, limits);
  plan.threads = kHardWarps * 32;
  plan.shared_bytes = static_cast<int>(needed);
  plan.blocks = std::min(divide_up(s.queries, kHardWarps),
                         std::max(1, divide_up(int64_t{16} * limits.multiprocessors, s.batch_heads())));
  return plan;
}

}  // namespace axform::cuda
