// The CPU kernels as ONNX Runtime sees them.
#pragma once

#include "../attention_ops.h"
#include "../unpack_op.h"
#include "attention.h"
#include "unpack_bits.h"

namespace axform::cpu {

constexpr uintptr_t kLine = 64;  // bytes of a cache line

template <class Op, Method kMethod>
class CpuAttention : public AttentionKernel<Op, ort::ELEMENT_FLOAT> {
 public:
  static constexpr const char* kProvider = nullptr;
  using AttentionKernel<Op, ort::ELEMENT_FLOAT>::AttentionKernel;

  void compute(ort::OrtKernelContext* context) const {
    const ort::OrtApi& api = this->api_;
    const typename AttentionKernel<Op, ort::ELEMENT_FLOAT>::Inputs in(*this, context);
    float* y = static_cast<float*>(output(api, context, 0, in.shape.output));
    if (in.shape.empty()) return;
    const AttentionPlan plan = plan_attention(kMethod, this->attributes_, in.shape);
    const Allocator allocator(api, context, in.q);
    const AttentionCall call{kMethod,
                             this->attributes_,
                             in.shape,
                             static_cast<const float*>(in.q.data),
                             static_cast<const float*>(in.k.data),
                             static_cast<const float*>(in.v.data),
                             in.key_mask(),
                             y};
    auto with_memory = [&](size_t bytes, FunctionRef<void(char*)> use) {
      const Scratch scratch(allocator, bytes == 0 ? 0 : bytes + kLine);
      use(reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(scratch.data()) + kLine - 1) / kLine * kLine));
    };
    run_attention(call, plan, with_memory, [&](size_t total, FunctionRef<void(size_t)> body) {
      parallel_for(api, context, total, body);
    });
  }
};

using SignMatching = CpuAttention<SignMatchingOp, Method::kSignMatching>;
using HardAttention = CpuAttention<HardAttentionOp, Method::kHard>;

class UnpackBits : public UnpackBitsKernel {
 public:
  static constexpr const char* kProvider = nullptr;
  using UnpackBitsKernel::UnpackBitsKernel;

  void compute(ort::OrtKernelContext* context) const {
    const Tensor bytes = packed(context);
    int8_t* codes = static_cast<int8_t*>(output(api_, context, 0, shape_));
    unpack_bits(static_cast<const uint8_t*>(bytes.data), bytes.dims[0], bits_, count_, codes);
  }
};

}  // namespace axform::cpu
