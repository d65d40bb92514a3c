// What the CPU and the CUDA records of UnpackBits share.
#pragma once

#include "ort_api.h"

namespace axform {

class UnpackBitsKernel {
 public:
  static constexpr const char* kName = "UnpackBits";
  static constexpr int kSinceVersion = 2;
  static constexpr size_t kInputs = 1;
  static ort::ONNXTensorElementDataType input_type(size_t) { return ort::ELEMENT_UINT8; }
  static ort::ONNXTensorElementDataType output_type() { return ort::ELEMENT_INT8; }
  static bool input_optional(size_t) { return false; }
  static void infer_shape(const ort::OrtApi& api, ort::OrtShapeInferContext* context);

  UnpackBitsKernel(const ort::OrtApi& api, const ort::OrtKernelInfo* info);
  const ort::OrtApi& api() const { return api_; }

 protected:
  // The packed input, checked to hold all codes.
  Tensor packed(const ort::OrtKernelContext* context) const;

  const ort::OrtApi& api_;
  std::string place_;
  int bits_;
  Dims shape_;
  int64_t count_;
};

}  // namespace axform
