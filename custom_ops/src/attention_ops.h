// What the CPU and the CUDA records of the attention ops share.
#pragma once

#include "attention_shape.h"

namespace axform {

struct SignMatchingOp {
  static constexpr const char* kName = "SignMatchingAttention";
  static constexpr bool kSelects = true;
  static AttentionAttributes attributes(const ort::OrtApi& api, const ort::OrtKernelInfo* info) {
    return sign_matching_attributes(api, info);
  }
};

struct HardAttentionOp {
  static constexpr const char* kName = "HardAttention";
  static constexpr bool kSelects = false;
  static AttentionAttributes attributes(const ort::OrtApi& api, const ort::OrtKernelInfo* info) {
    return hard_attention_attributes(api, info);
  }
};

// Inputs Q, K, V and an optional key_mask; output Y.
template <class Op, ort::ONNXTensorElementDataType Element>
class AttentionKernel {
 public:
  static constexpr const char* kName = Op::kName;
  static constexpr int kSinceVersion = 1;
  static constexpr size_t kInputs = 4;
  static ort::ONNXTensorElementDataType input_type(size_t i) { return i < 3 ? Element : ort::ELEMENT_BOOL; }
  static ort::ONNXTensorElementDataType output_type() { return Element; }
  static bool input_optional(size_t i) { return i == 3; }
  static void infer_shape(const ort::OrtApi& api, ort::OrtShapeInferContext* context) {
    infer_attention_shape(api, context);
  }

  AttentionKernel(const ort::OrtApi& api, const ort::OrtKernelInfo* info)
      : api_(api), attributes_(Op::attributes(api, info)) {}
  const ort::OrtApi& api() const { return api_; }

 protected:
  // The inputs of a call, checked against each other.
  struct Inputs {
    const Tensor q, k, v, mask;
    const AttentionShape shape;

    Inputs(const AttentionKernel& kernel, const ort::OrtKernelContext* context)
        : q(input(kernel.api_, context, 0)),
          k(input(kernel.api_, context, 1)),
          v(input(kernel.api_, context, 2)),
          mask(input(kernel.api_, context, 3)),
          shape(attention_shape(kernel.attributes_, q, k, v, mask)) {}

    const uint8_t* key_mask() const { return static_cast<const uint8_t*>(mask.data); }
  };

  const ort::OrtApi& api_;
  const AttentionAttributes attributes_;
};

}  // namespace axform
