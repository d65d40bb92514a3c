// Proves ort_abi.h against ONNX Runtime's own header: every used entry of the API table and every field of OrtCustomOp
// must have the same offset, and the constants the same values. Compiled only where that header is installed.
#include <onnxruntime_c_api.h>

#include <cstddef>

#include "ort_abi.h"

namespace {

#define SAME_SLOT(name) \
  static_assert(offsetof(::OrtApi, name) == offsetof(axform::ort::OrtApi, name), "OrtApi::" #name " moved")
SAME_SLOT(CreateStatus);
SAME_SLOT(CreateCustomOpDomain);
SAME_SLOT(CustomOpDomain_Add);
SAME_SLOT(AddCustomOpDomain);
SAME_SLOT(GetTensorMutableData);
SAME_SLOT(CreateTensorTypeAndShapeInfo);
SAME_SLOT(SetTensorElementType);
SAME_SLOT(SetDimensions);
SAME_SLOT(GetTensorElementType);
SAME_SLOT(GetDimensionsCount);
SAME_SLOT(GetDimensions);
SAME_SLOT(GetSymbolicDimensions);
SAME_SLOT(GetTensorTypeAndShape);
SAME_SLOT(AllocatorAlloc);
SAME_SLOT(AllocatorFree);
SAME_SLOT(KernelInfoGetAttribute_float);
SAME_SLOT(KernelInfoGetAttribute_int64);
SAME_SLOT(KernelInfoGetAttribute_string);
SAME_SLOT(KernelContext_GetInputCount);
SAME_SLOT(KernelContext_GetInput);
SAME_SLOT(KernelContext_GetOutput);
SAME_SLOT(KernelInfoGetAttributeArray_int64);
SAME_SLOT(KernelContext_GetGPUComputeStream);
SAME_SLOT(GetTensorMemoryInfo);
SAME_SLOT(KernelInfo_GetNodeName);
SAME_SLOT(KernelContext_GetAllocator);
SAME_SLOT(ShapeInferContext_GetInputTypeShape);
SAME_SLOT(ShapeInferContext_GetAttribute);
SAME_SLOT(ShapeInferContext_SetOutputTypeShape);
SAME_SLOT(SetSymbolicDimensions);
SAME_SLOT(ReadOpAttr);
SAME_SLOT(KernelContext_ParallelFor);
SAME_SLOT(ReleaseStatus);
SAME_SLOT(ReleaseTensorTypeAndShapeInfo);
SAME_SLOT(ReleaseCustomOpDomain);
SAME_SLOT(ReleaseAllocator);

#define SAME_FIELD(name) \
  static_assert(offsetof(::OrtCustomOp, name) == offsetof(axform::ort::OrtCustomOp, name), "OrtCustomOp::" #name " moved")
SAME_FIELD(version);
SAME_FIELD(CreateKernel);
SAME_FIELD(GetName);
SAME_FIELD(GetExecutionProviderType);
SAME_FIELD(GetInputType);
SAME_FIELD(GetInputTypeCount);
SAME_FIELD(GetOutputType);
SAME_FIELD(GetOutputTypeCount);
SAME_FIELD(KernelCompute);
SAME_FIELD(KernelDestroy);
SAME_FIELD(GetInputCharacteristic);
SAME_FIELD(GetOutputCharacteristic);
SAME_FIELD(GetInputMemoryType);
SAME_FIELD(GetVariadicInputMinArity);
SAME_FIELD(GetVariadicInputHomogeneity);
SAME_FIELD(GetVariadicOutputMinArity);
SAME_FIELD(GetVariadicOutputHomogeneity);
SAME_FIELD(CreateKernelV2);
SAME_FIELD(KernelComputeV2);
SAME_FIELD(InferOutputShapeFn);
SAME_FIELD(GetStartVersion);
SAME_FIELD(GetEndVersion);

#define SAME_VALUE(theirs, ours) \
  static_assert(static_cast<int>(theirs) == static_cast<int>(axform::ort::ours), #theirs " changed")
SAME_VALUE(ORT_OK, ORT_OK);
SAME_VALUE(ORT_FAIL, ORT_FAIL);
SAME_VALUE(ORT_INVALID_ARGUMENT, ORT_INVALID_ARGUMENT);
SAME_VALUE(ORT_RUNTIME_EXCEPTION, ORT_RUNTIME_EXCEPTION);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, ELEMENT_UNDEFINED);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ELEMENT_FLOAT);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, ELEMENT_UINT8);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, ELEMENT_INT8);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, ELEMENT_BOOL);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, ELEMENT_FLOAT16);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16, ELEMENT_BFLOAT16);
SAME_VALUE(INPUT_OUTPUT_REQUIRED, INPUT_OUTPUT_REQUIRED);
SAME_VALUE(INPUT_OUTPUT_OPTIONAL, INPUT_OUTPUT_OPTIONAL);
SAME_VALUE(OrtMemTypeDefault, ORT_MEM_DEFAULT);
SAME_VALUE(OrtMemTypeCPU, ORT_MEM_CPU);
SAME_VALUE(ORT_OP_ATTR_INT, ORT_OP_ATTR_INT);
SAME_VALUE(ORT_OP_ATTR_INTS, ORT_OP_ATTR_INTS);

}  // namespace
