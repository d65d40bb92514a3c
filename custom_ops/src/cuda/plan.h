// How a call is cut into blocks and how much memory they need. Plain C++, so that tests reach it without a GPU.
#pragma once

#include <cstddef>

#include "../attention_shape.h"
#include "problem.h"

namespace axform::cuda {

enum class Element { kFloat32, kFloat16, kBFloat16 };

struct DeviceLimits {
  int compute_capability;  // 90 for 9.0
  int multiprocessors;
  int shared_bytes;        // most that a block may ask for
};

struct LaunchPlan {
  Problem problem;         // without the scratch pointers
  bool tensor_cores;
  int padded;              // head sizes rounded up: 64, 128 or 256
  int threads, blocks;     // of the second launch, per head
  int shared_bytes;        // of the second launch
  size_t signs_bytes, votes_bytes;  // scratch; none for plain attention

  size_t scratch_bytes() const { return signs_bytes + votes_bytes; }
};

struct TensorPointers {
  const void* q;
  const void* k;
  const void* v;
  const uint8_t* key_mask;
  void* y;
};

// Throws OpError where the shape is beyond what the kernels can do on this device.
LaunchPlan plan_sign_matching(const AttentionAttributes& attributes, const AttentionShape& shape, Element element,
                              const TensorPointers& tensors, const DeviceLimits& limits);
LaunchPlan plan_hard_attention(const AttentionAttributes& attributes, const AttentionShape& shape, Element element,
                               const TensorPointers& tensors, const DeviceLimits& limits);

}  // namespace axform::cuda
