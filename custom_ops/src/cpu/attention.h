// The attention ops on the CPU, float32.
#pragma once

#include "../attention_shape.h"
#include "function_ref.h"

namespace axform::cpu {

enum class Method { kSignMatching, kHard };

struct AttentionCall {
  Method method;
  const AttentionAttributes& attributes;
  const AttentionShape& shape;
  const float* q;
  const float* k;
  const float* v;
  const uint8_t* key_mask;  // null: every key is a real token
  float* y;
};

// How a call is divided. A head is prepared (keys selected, keys and values packed) and then attended to by blocks of
// query rows; with one block a head, both happen in one go and the prepared head is still in the cache.
struct AttentionPlan {
  int64_t rows_per_block;
  int64_t blocks_per_head;
  int64_t workers;   // pieces of work at a time, at most
  int64_t selected;  // most keys that a head keeps
  size_t head_bytes;   // of a prepared head
  size_t score_bytes;  // of a worker

  bool divided() const { return blocks_per_head > 1; }
};

AttentionPlan plan_attention(Method method, const AttentionAttributes& attributes, const AttentionShape& shape);

// Calls `use` with so many bytes on a cache line's boundary, which are given back afterwards; from any thread.
using WithMemory = FunctionRef<void(size_t bytes, FunctionRef<void(char* memory)> use)>;
// Calls its argument for every i in [0, total), on several threads if it can.
using ParallelFor = FunctionRef<void(size_t total, FunctionRef<void(size_t)> body)>;

void run_attention(const AttentionCall& call, const AttentionPlan& plan, WithMemory with_memory, ParallelFor parallel);

}  // namespace axform::cpu
