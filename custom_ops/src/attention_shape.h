// Shapes and attributes of the attention ops, validated once for the CPU and the CUDA kernels.
#pragma once

#include "ort_api.h"

namespace axform {

enum class Selection { kMajority, kCount };

struct AttentionAttributes {
  std::string place;  // op and node name, for messages
  int64_t k;
  int64_t num_heads;  // 0: not given
  float scale;        // 0: 1 / sqrt(head size)
  bool causal;
  Selection selection;
  float prefix;
};

// Reads and validates the attributes of a SignMatchingAttention node.
AttentionAttributes sign_matching_attributes(const ort::OrtApi& api, const ort::OrtKernelInfo* info);
// Reads and validates the attributes of a HardAttention node.
AttentionAttributes hard_attention_attributes(const ort::OrtApi& api, const ort::OrtKernelInfo* info);

// Where element (batch, head, row, 0) of a tensor lies: base + batch * .batch + head * .head + row * .row elements.
struct Strides {
  int64_t batch, head, row;
};

struct AttentionShape {
  int64_t batch, heads, queries, keys, head_size, value_size;
  Strides q, k, v, y;
  Dims output;  // dims of the result
  float scale;  // the default filled in

  int64_t batch_heads() const { return batch * heads; }
  bool empty() const { return batch == 0 || heads == 0 || queries == 0 || value_size == 0; }
};

// Checks the inputs of an attention node against each other. Throws OpError.
AttentionShape attention_shape(const AttentionAttributes& attributes, const Tensor& q, const Tensor& k, const Tensor& v,
                               const Tensor& key_mask);

// The output's shape for shape inference: (batch, heads, queries, value size), or (batch, queries, heads * value size).
void infer_attention_shape(const ort::OrtApi& api, ort::OrtShapeInferContext* context);

}  // namespace axform
