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
  int64_t workers;  // pieces of work at a time, each with scratch of its own
  int64_t states;   // prepared heads at a time
  int64_t selected; // most keys that a head keeps
  size_t state_bytes, worker_bytes;

  size_t scratch_bytes() const { return states * state_bytes + workers * worker_bytes + 64; }
};

AttentionPlan plan_attention(Method method, const AttentionAttributes& attributes, const AttentionShape& shape);

// Calls its argument for every i in [0, total), on several threads if it can.
using ParallelFor = FunctionRef<void(size_t total, FunctionRef<void(size_t)> body)>;

void run_attention(const AttentionCall& call, const AttentionPlan& plan, void* scratch, ParallelFor parallel);

}  // namespace axform::cpu
