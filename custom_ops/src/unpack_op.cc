#include "unpack_op.h"

#include "unpack_arithmetic.h"

namespace axform {

UnpackBitsKernel::UnpackBitsKernel(const ort::OrtApi& api, const ort::OrtKernelInfo* info) : api_(api), count_(1) {
  const Attributes read(api, info, kName);
  place_ = read.place();
  const int64_t bits = read.integer("bits", 0);
  if (bits < 2 || bits > 8) {
    throw OpError{place_ + ": attribute bits is required and must be 2 to 8, not " + std::to_string(bits)};
  }
  bits_ = static_cast<int>(bits);
  shape_ = read.integers("shape");
  for (int64_t dim : shape_) {
    if (dim < 0 || (dim != 0 && count_ > (int64_t{1} << 48) / dim)) {
      throw OpError{place_ + ": attribute shape holds " + std::to_string(dim) + "; every dimension must be 0 or more, "
                    "and all of them together less than 2^48 codes"};
    }
    count_ *= dim;
  }
}

Tensor UnpackBitsKernel::packed(const ort::OrtKernelContext* context) const {
  Tensor tensor = input(api_, context, 0);
  int64_t bytes = 1;
  for (int64_t dim : tensor.dims) bytes *= dim;
  const int64_t needed = packed_bytes(count_, bits_);
  if (tensor.dims.size() != 1 || bytes != needed) {
    throw OpError{place_ + ": " + std::to_string(count_) + " codes of " + std::to_string(bits_) + " bits take " +
                  std::to_string(needed) + " bytes in one dimension, but the input has rank " +
                  std::to_string(tensor.dims.size()) + " and " + std::to_string(bytes) + " bytes"};
  }
  return tensor;
}

void UnpackBitsKernel::infer_shape(const ort::OrtApi& api, ort::OrtShapeInferContext* context) {
  const ort::OrtOpAttr* attribute = nullptr;
  if (ort::OrtStatus* status = api.ShapeInferContext_GetAttribute(context, "shape", &attribute)) {
    return api.ReleaseStatus(status);  // the kernel reports what is missing
  }
  int64_t values[Dims::kMaxRank];
  size_t bytes = 0;
  if (ort::OrtStatus* status = api.ReadOpAttr(attribute, ort::ORT_OP_ATTR_INTS, values, sizeof values, &bytes)) {
    return api.ReleaseStatus(status);
  }
  ort::OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api.CreateTensorTypeAndShapeInfo(&info));
  ort::OrtStatus* status = api.SetTensorElementType(info, ort::ELEMENT_INT8);
  if (status == nullptr) status = api.SetDimensions(info, values, bytes / sizeof(int64_t));
  if (status == nullptr) status = api.ShapeInferContext_SetOutputTypeShape(context, 0, info);
  api.ReleaseTensorTypeAndShapeInfo(info);
  check(status);
}

}  // namespace axform
