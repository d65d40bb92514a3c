#include "attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <thread>

#include "kernels.h"
#include "select.h"

namespace axform::cpu {
namespace {

constexpr float kLog2E = 1.4426950408889634f;
constexpr int64_t kMinRowsPerBlock = 96;
constexpr int64_t kReadAheadFloats = 128 * 1024;  // half of a typical second-level cache

float sign_of(float x) { return x < 0.0f ? -1.0f : 1.0f; }

// Hands out pieces of one memory block, each on a cache line of its own. Without memory it only adds up the sizes.
class Carver {
 public:
  explicit Carver(char* memory) : memory_(memory) {}

  template <class T>
  T* take(int64_t count) {
    T* piece = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof(T)), 64));
    return piece;
  }
  size_t used() const { return used_; }

 private:
  char* memory_;
  size_t used_ = 0;
};

// A head that is ready for its queries.
struct Head {
  int64_t* keys;        // how many were selected
  int32_t* index;       // which, in rising order
  int32_t* counts;      // per element: how many queries are positive, then the key weights made of that
  uint64_t* target;     // majority signs
  uint32_t* ranks;      // per key
  uint32_t* histogram;
  int32_t* limit;       // causal: how many selected keys a row sees
  uint8_t* own;         // causal: whether a row sees its own position besides
  float* packed_keys;
  float* packed_values;

  Head(Carver& carver, const AttentionShape& s, const AttentionPlan& plan, bool causal) {
    const int64_t lanes = kernels().lanes;
    keys = carver.take<int64_t>(1);
    index = carver.take<int32_t>(plan.selected + 1);
    counts = carver.take<int32_t>(s.head_size);
    target = carver.take<uint64_t>((s.head_size + 63) / 64);
    ranks = carver.take<uint32_t>(s.keys);
    histogram = carver.take<uint32_t>(kHistogramBins);
    limit = carver.take<int32_t>(causal ? s.queries : 0);
    own = carver.take<uint8_t>(causal ? s.queries : 0);
    packed_keys = carver.take<float>(round_up(plan.selected, lanes) * s.head_size);
    packed_values = carver.take<float>(plan.selected * round_up(s.value_size, lanes));
  }
};

Rows rows_of(const float* data, const Strides& strides, int64_t batch, int64_t head, int64_t count,
             const uint8_t* mask) {
  return {data + batch * strides.batch + head * strides.head, strides.row, count, mask};
}

// One head's inputs.
struct HeadRows {
  Rows q, k, v;
  int64_t valid_queries, valid_keys;

  HeadRows(const AttentionCall& call, int64_t batch_head) {
    const AttentionShape& s = call.shape;
    const int64_t batch = batch_head / s.heads;
    const int64_t head = batch_head % s.heads;
    const uint8_t* mask = call.key_mask == nullptr ? nullptr : call.key_mask + batch * s.keys;
    q = rows_of(call.q, s.q, batch, head, s.queries, s.queries == s.keys ? mask : nullptr);
    k = rows_of(call.k, s.k, batch, head, s.keys, mask);
    v = rows_of(call.v, s.v, batch, head, s.keys, mask);
    valid_keys = s.keys;
    if (mask != nullptr) {
      valid_keys = 0;
      for (int64_t i = 0; i < s.keys; ++i) valid_keys += mask[i] != 0;
      if (valid_keys == s.keys) q.mask = k.mask = v.mask = nullptr;
    }
    valid_queries = s.queries == s.keys ? valid_keys : s.queries;
  }
};

// Ranks of all keys (Algorithm 4 of arXiv 2010.03688v1, or the exact total over all pairs); returns the largest.
uint32_t rank_keys(const AttentionCall& call, const HeadRows& rows, const Head& head) {
  const Kernels& kernel = kernels();
  const int64_t d = call.shape.head_size;
  const int64_t n = rows.valid_queries;
  kernel.count_positive(rows.q, d, head.counts);
  if (call.attributes.selection == Selection::kMajority) {
    std::memset(head.target, 0, static_cast<size_t>((d + 63) / 64) * sizeof(uint64_t));
    for (int64_t i = 0; i < d; ++i) {
      head.target[i / 64] |= static_cast<uint64_t>(2 * static_cast<int64_t>(head.counts[i]) >= n) << (i % 64);
    }
    kernel.sign_distance_ranks(rows.k, d, head.target, head.ranks);
    return static_cast<uint32_t>(d + 1);
  }
  for (int64_t i = 0; i < d; ++i) head.counts[i] = static_cast<int32_t>(2 * static_cast<int64_t>(head.counts[i]) - n);
  kernel.sign_score_ranks(rows.k, d, head.counts, head.ranks);
  return kExcludedRank - 1;
}

// Position after the `wanted`-th valid row.
int64_t end_of_prefix(const Rows& rows, int64_t wanted) {
  if (rows.mask == nullptr) return wanted;
  int64_t end = 0;
  for (int64_t seen = 0; seen < wanted; ++end) seen += rows.mask[end] != 0;
  return end;
}

int64_t select_keys(const AttentionCall& call, const HeadRows& rows, const Head& head) {
  const AttentionShape& s = call.shape;
  if (call.method == Method::kHard || s.keys <= call.attributes.k) {
    int64_t keys = 0;
    for (int64_t i = 0; i < s.keys; ++i) {
      if (rows.k.valid(i)) head.index[keys++] = static_cast<int32_t>(i);
    }
    return keys;
  }
  const uint32_t largest = rank_keys(call, rows, head);
  if (call.attributes.causal) {
    const double prefix = call.attributes.prefix;
    const int64_t prefix_keys = static_cast<int64_t>(std::floor(prefix * static_cast<double>(rows.valid_keys)));
    const int64_t wanted = static_cast<int64_t>(std::floor(prefix * static_cast<double>(call.attributes.k)));
    const int64_t taken = select_smallest(head.ranks, end_of_prefix(rows.k, prefix_keys),
                                          std::min(wanted, prefix_keys), largest, head.histogram, head.index);
    for (int64_t i = 0; i < taken; ++i) head.ranks[head.index[i]] = 0;  // ahead of every other key
  }
  return select_smallest(head.ranks, s.keys, std::min(call.attributes.k, rows.valid_keys), largest, head.histogram,
                         head.index);
}

void fill_causal(const HeadRows& rows, int64_t keys, const Head& head) {
  int64_t seen = 0;
  for (int64_t i = 0; i < rows.k.count; ++i) {
    const bool selected = seen < keys && head.index[seen] == i;
    seen += selected;
    head.limit[i] = static_cast<int32_t>(seen);
    head.own[i] = !selected && rows.k.valid(i);
  }
}

void prepare_head(const AttentionCall& call, int64_t batch_head, const Head& head) {
  const AttentionShape& s = call.shape;
  const HeadRows rows(call, batch_head);
  const int64_t keys = select_keys(call, rows, head);
  *head.keys = keys;
  if (call.attributes.causal) fill_causal(rows, keys, head);
  kernels().pack_keys(rows.k, head.index, keys, s.head_size, sign_of(s.scale), head.packed_keys);
  kernels().pack_values(rows.v, head.index, keys, s.value_size, head.packed_values);
}

void attend_block(const AttentionCall& call, int64_t batch_head, int64_t first, int64_t rows, const Head& head,
                  int64_t next_head, float* scores) {
  const AttentionShape& s = call.shape;
  const int64_t b = batch_head / s.heads;
  const int64_t h = batch_head % s.heads;
  AttendTask task{};
  task.queries = rows_of(call.q + first * s.q.row, s.q, b, h, rows, nullptr);
  task.head_size = s.head_size;
  task.value_size = s.value_size;
  task.keys = *head.keys;
  task.packed_keys = head.packed_keys;
  task.packed_values = head.packed_values;
  task.output = call.y + b * s.y.batch + h * s.y.head + first * s.y.row;
  task.output_stride = s.y.row;
  task.scores = scores;
  task.score_factor = std::fabs(s.scale) * kLog2E;
  task.key_sign = sign_of(s.scale);
  if (next_head < s.batch_heads() && (s.queries + s.keys) * s.head_size <= kReadAheadFloats) {
    task.next_queries = rows_of(call.q, s.q, next_head / s.heads, next_head % s.heads, s.queries, nullptr);
    task.next_keys = rows_of(call.k, s.k, next_head / s.heads, next_head % s.heads, s.keys, nullptr);
  }
  if (call.attributes.causal) {
    task.limit = head.limit + first;
    task.own = head.own + first;
    task.own_key = call.k + b * s.k.batch + h * s.k.head + first * s.k.row;
    task.own_key_stride = s.k.row;
    task.own_value = call.v + b * s.v.batch + h * s.v.head + first * s.v.row;
    task.own_value_stride = s.v.row;
  }
  if (call.method == Method::kHard && s.keys > call.attributes.k) {
    task.top = call.attributes.k;
    kernels().attend_top(task);
  } else {
    kernels().attend(task);
  }
}

}  // namespace

AttentionPlan plan_attention(Method method, const AttentionAttributes& a, const AttentionShape& s) {
  AttentionPlan plan{};
  const int64_t heads = s.batch_heads();
  // ONNX Runtime does not tell how many threads a session has, so the machine's stand for them. For a session with fewer
  // the pieces are finer than they need be, which costs little time; memory goes by the threads that come (below).
  const int64_t threads = std::max<int64_t>(1, std::thread::hardware_concurrency());
  // Heads are the natural pieces; where they are few they are divided, so that every thread has work.
  const int64_t pieces = heads >= 4 * threads ? 1 : (4 * threads + heads - 1) / heads;
  plan.rows_per_block = std::max(kMinRowsPerBlock, round_up((s.queries + pieces - 1) / pieces, 24));
  plan.blocks_per_head = (s.queries + plan.rows_per_block - 1) / plan.rows_per_block;
  plan.workers = std::min(heads * plan.blocks_per_head, threads);
  plan.selected = method == Method::kHard ? s.keys : std::min(a.k, s.keys);
  Carver carver(nullptr);
  Head(carver, s, plan, a.causal);
  plan.head_bytes = carver.used();
  const int64_t extra = method == Method::kHard ? round_up(plan.selected, kernels().lanes) : 0;
  plan.score_bytes =
      static_cast<size_t>(round_up((kernels().score_floats(plan.selected) + extra) * int64_t{sizeof(float)}, 64));
  return plan;
}

void run_attention(const AttentionCall& call, const AttentionPlan& plan, WithMemory with_memory, ParallelFor parallel) {
  const int64_t heads = call.shape.batch_heads();
  const int64_t items = heads * plan.blocks_per_head;
  auto head_in = [&](char* memory) {
    Carver carver(memory);
    return Head(carver, call.shape, plan, call.attributes.causal);
  };
  // Divided heads are all prepared before any is attended to; together they take about as much as K and V.
  with_memory(plan.divided() ? heads * plan.head_bytes : 0, [&](char* prepared) {
    auto prepared_head = [&](int64_t batch_head) { return head_in(prepared + batch_head * plan.head_bytes); };
    if (plan.divided()) {
      parallel(static_cast<size_t>(heads), [&](size_t i) {
        const int64_t batch_head = static_cast<int64_t>(i);
        prepare_head(call, batch_head, prepared_head(batch_head));
      });
    }
    // The workers share a counter, so that a slow one leaves its work to the others. A worker takes memory once it has
    // an item, and the first ones to run leave none to those that have to wait for a thread: no more take memory than
    // the session has threads.
    std::atomic<int64_t> next{0};
    std::atomic<int64_t> started{0};
    parallel(static_cast<size_t>(plan.workers), [&](size_t) {
      int64_t item = next.fetch_add(1, std::memory_order_relaxed);
      if (item >= items) return;
      started.fetch_add(1, std::memory_order_relaxed);
      with_memory(plan.score_bytes + (plan.divided() ? 0 : plan.head_bytes), [&](char* own) {
        float* scores = reinterpret_cast<float*>(own);
        for (; item < items; item = next.fetch_add(1, std::memory_order_relaxed)) {
          const int64_t batch_head = item / plan.blocks_per_head;
          const int64_t first = item % plan.blocks_per_head * plan.rows_per_block;
          const int64_t rows = std::min(plan.rows_per_block, call.shape.queries - first);
          const Head head = plan.divided() ? prepared_head(batch_head) : head_in(own + plan.score_bytes);
          if (!plan.divided()) prepare_head(call, batch_head, head);
          const int64_t next_head = plan.divided() ? heads : batch_head + started.load(std::memory_order_relaxed);
          attend_block(call, batch_head, first, rows, head, next_head, scores);
        }
      });
    });
  });
}

}  // namespace axform::cpu
