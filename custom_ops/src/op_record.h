// Fills ONNX Runtime's OrtCustomOp record from a kernel class.
//
// A kernel class has: kName, kProvider (null for the CPU), kInputs, input_type(i), output_type(), input_optional(i),
// a constructor (const OrtApi&, const OrtKernelInfo*), compute(OrtKernelContext*) and
// static infer_shape(const OrtApi&, OrtShapeInferContext*).
#pragma once

#include "ort_api.h"

namespace axform {

template <class Kernel>
struct OpRecord : ort::OrtCustomOp {
  const ort::OrtApi* api;

  explicit OpRecord(const ort::OrtApi& ort_api) : ort::OrtCustomOp{}, api(&ort_api) {
    using namespace ort;
    version = kCustomOpVersion;
    CreateKernel = [](const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*) -> void* { return nullptr; };
    GetName = [](const OrtCustomOp*) -> const char* { return Kernel::kName; };
    GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return Kernel::kProvider; };
    GetInputType = [](const OrtCustomOp*, size_t i) { return Kernel::input_type(i); };
    GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return Kernel::kInputs; };
    GetOutputType = [](const OrtCustomOp*, size_t) { return Kernel::output_type(); };
    GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
    KernelCompute = [](void*, OrtKernelContext*) {};
    KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t i) {
      return Kernel::input_optional(i) ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
    };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return ORT_MEM_DEFAULT; };
    GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
    GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
    GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
    GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
    CreateKernelV2 = [](const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
      return guarded(*api, [&] { *kernel = new Kernel(*api, info); });
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
      Kernel& self = *static_cast<Kernel*>(kernel);
      return guarded(self.api(), [&] { self.compute(context); });
    };
    InferOutputShapeFn = [](const OrtCustomOp* op, OrtShapeInferContext* context) {
      const OrtApi& api = *static_cast<const OpRecord*>(op)->api;
      return guarded(api, [&] { Kernel::infer_shape(api, context); });
    };
    GetStartVersion = [](const OrtCustomOp*) { return Kernel::kSinceVersion; };
    GetEndVersion = [](const OrtCustomOp*) { return 0x7fffffff; };
  }
};

}  // namespace axform
