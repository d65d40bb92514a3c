// The CUDA kernels as ONNX Runtime sees them.
#pragma once

#include "../attention_ops.h"
#include "../unpack_op.h"
#include "launch.h"

namespace axform::cuda {

constexpr Element element_of(ort::ONNXTensorElementDataType type) {
  return type == ort::ELEMENT_FLOAT ? Element::kFloat32
                                    : type == ort::ELEMENT_FLOAT16 ? Element::kFloat16 : Element::kBFloat16;
}

inline void* stream_of(const ort::OrtApi& api, const ort::OrtKernelContext* context) {
  void* stream = nullptr;
  check(api.KernelContext_GetGPUComputeStream(context, &stream));
  return stream;
}

template <class Op, ort::ONNXTensorElementDataType kType>
class CudaAttention : public AttentionKernel<Op, kType> {
 public:
  static constexpr const char* kProvider = "CUDAExecutionProvider";
  using AttentionKernel<Op, kType>::AttentionKernel;

  void compute(ort::OrtKernelContext* context) const {
    const ort::OrtApi& api = this->api_;
    const typename AttentionKernel<Op, kType>::Inputs in(*this, context);
    void* y = output(api, context, 0, in.shape.output);
    if (in.shape.empty()) return;
    constexpr Element kElement = element_of(kType);
    const TensorPointers tensors{in.q.data, in.k.data, in.v.data, in.key_mask(), y};
    if constexpr (Op::kSelects) {
      const LaunchPlan plan = plan_sign_matching(this->attributes_, in.shape, kElement, tensors, device_limits());
      const Allocator allocator(api, context, in.q);
      const Scratch scratch(allocator, plan.scratch_bytes());
      launch_sign_matching(plan, kElement, scratch.data(), stream_of(api, context));
    } else {
      const LaunchPlan plan = plan_hard_attention(this->attributes_, in.shape, kElement, tensors, device_limits());
      launch_hard_attention(plan, kElement, stream_of(api, context));
    }
  }
};

template <ort::ONNXTensorElementDataType kType>
using SignMatching = CudaAttention<SignMatchingOp, kType>;
template <ort::ONNXTensorElementDataType kType>
using HardAttention = CudaAttention<HardAttentionOp, kType>;

class UnpackBits : public UnpackBitsKernel {
 public:
  static constexpr const char* kProvider = "CUDAExecutionProvider";
  using UnpackBitsKernel::UnpackBitsKernel;

  void compute(ort::OrtKernelContext* context) const {
    const Tensor bytes = packed(context);
    int8_t* codes = static_cast<int8_t*>(output(api_, context, 0, shape_));
    launch_unpack_bits(static_cast<const uint8_t*>(bytes.data), bytes.dims[0], bits_, count_, codes,
                       stream_of(api_, context));
  }
};

}  // namespace axform::cuda
