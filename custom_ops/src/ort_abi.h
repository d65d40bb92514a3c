// The part of ONNX Runtime's C ABI that the op library uses.
//
// ONNX Runtime publishes a table of function pointers that only ever grows at its end, and reads an OrtCustomOp up to
// the field that `version` promises. Declaring the used entries here makes the library independent of ONNX Runtime's
// headers, which its Python wheels do not ship, and lets one binary run on every ONNX Runtime from 1.17 on.
//
// Every entry states its slot; the static_asserts at the end check the slots against the declarations, and
// ort_abi_check.cc compares them with the official header where one is installed.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define AXFORM_ORT_CALL __stdcall
#else
#define AXFORM_ORT_CALL
#endif

namespace axform::ort {

inline constexpr uint32_t kApiVersion = 17;       // the table of ONNX Runtime 1.17
inline constexpr uint32_t kCustomOpVersion = 17;  // OrtCustomOp up to GetEndVersion

struct OrtStatus;
struct OrtValue;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtTensorTypeAndShapeInfo;
struct OrtMemoryInfo;
struct OrtAllocator;
struct OrtShapeInferContext;
struct OrtOpAttr;
struct OrtCustomOp;

enum OrtErrorCode : int { ORT_OK = 0, ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2, ORT_RUNTIME_EXCEPTION = 6 };

enum ONNXTensorElementDataType : int {
  ELEMENT_UNDEFINED = 0,
  ELEMENT_FLOAT = 1,
  ELEMENT_UINT8 = 2,
  ELEMENT_INT8 = 3,
  ELEMENT_BOOL = 9,
  ELEMENT_FLOAT16 = 10,
  ELEMENT_BFLOAT16 = 16,
};

enum OrtCustomOpInputOutputCharacteristic : int { INPUT_OUTPUT_REQUIRED = 0, INPUT_OUTPUT_OPTIONAL = 1 };
enum OrtMemType : int { ORT_MEM_CPU = -1, ORT_MEM_DEFAULT = 0 };
enum OrtOpAttrType : int { ORT_OP_ATTR_INT = 1, ORT_OP_ATTR_INTS = 2 };

#define AXFORM_ORT_FN(name, ...) OrtStatus*(AXFORM_ORT_CALL * name)(__VA_ARGS__)

struct OrtApi {
  AXFORM_ORT_FN(CreateStatus, OrtErrorCode code, const char* message);  // 0
  void* slots_1_25[25];
  AXFORM_ORT_FN(CreateCustomOpDomain, const char* domain, OrtCustomOpDomain** out);           // 26
  AXFORM_ORT_FN(CustomOpDomain_Add, OrtCustomOpDomain* domain, const OrtCustomOp* op);        // 27
  AXFORM_ORT_FN(AddCustomOpDomain, OrtSessionOptions* options, OrtCustomOpDomain* domain);    // 28
  void* slots_29_50[22];
  AXFORM_ORT_FN(GetTensorMutableData, OrtValue* value, void** out);  // 51
  void* slots_52_56[5];
  AXFORM_ORT_FN(CreateTensorTypeAndShapeInfo, OrtTensorTypeAndShapeInfo** out);                            // 57
  AXFORM_ORT_FN(SetTensorElementType, OrtTensorTypeAndShapeInfo* info, ONNXTensorElementDataType type);    // 58
  AXFORM_ORT_FN(SetDimensions, OrtTensorTypeAndShapeInfo* info, const int64_t* dims, size_t count);        // 59
  AXFORM_ORT_FN(GetTensorElementType, const OrtTensorTypeAndShapeInfo* info, ONNXTensorElementDataType*);  // 60
  AXFORM_ORT_FN(GetDimensionsCount, const OrtTensorTypeAndShapeInfo* info, size_t* out);                   // 61
  AXFORM_ORT_FN(GetDimensions, const OrtTensorTypeAndShapeInfo* info, int64_t* dims, size_t count);        // 62
  AXFORM_ORT_FN(GetSymbolicDimensions, const OrtTensorTypeAndShapeInfo* info, const char** names, size_t count);  // 63
  void* slot_64;
  AXFORM_ORT_FN(GetTensorTypeAndShape, const OrtValue* value, OrtTensorTypeAndShapeInfo** out);  // 65
  void* slots_66_74[9];
  AXFORM_ORT_FN(AllocatorAlloc, OrtAllocator* allocator, size_t size, void** out);  // 75
  AXFORM_ORT_FN(AllocatorFree, OrtAllocator* allocator, void* memory);              // 76
  void* slots_77_84[8];
  AXFORM_ORT_FN(KernelInfoGetAttribute_float, const OrtKernelInfo* info, const char* name, float* out);      // 85
  AXFORM_ORT_FN(KernelInfoGetAttribute_int64, const OrtKernelInfo* info, const char* name, int64_t* out);    // 86
  AXFORM_ORT_FN(KernelInfoGetAttribute_string, const OrtKernelInfo* info, const char* name, char* out, size_t*);  // 87
  AXFORM_ORT_FN(KernelContext_GetInputCount, const OrtKernelContext* context, size_t* out);                  // 88
  void* slot_89;
  AXFORM_ORT_FN(KernelContext_GetInput, const OrtKernelContext* context, size_t index, const OrtValue** out);  // 90
  AXFORM_ORT_FN(KernelContext_GetOutput, OrtKernelContext* context, size_t index, const int64_t* dims, size_t rank,
                OrtValue** out);  // 91
  void* slot_92;
  void(AXFORM_ORT_CALL* ReleaseStatus)(OrtStatus*);  // 93
  void* slots_94_98[5];
  void(AXFORM_ORT_CALL* ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*);  // 99
  void* slot_100;
  void(AXFORM_ORT_CALL* ReleaseCustomOpDomain)(OrtCustomOpDomain*);  // 101
  void* slots_102_131[30];
  void(AXFORM_ORT_CALL* ReleaseAllocator)(OrtAllocator*);  // 132
  void* slots_133_162[30];
  AXFORM_ORT_FN(KernelInfoGetAttributeArray_int64, const OrtKernelInfo* info, const char* name, int64_t* out,
                size_t* size);  // 163
  void* slots_164_192[29];
  AXFORM_ORT_FN(KernelContext_GetGPUComputeStream, const OrtKernelContext* context, void** out);        // 193
  AXFORM_ORT_FN(GetTensorMemoryInfo, const OrtValue* value, const OrtMemoryInfo** out);                 // 194
  void* slots_195_243[49];
  AXFORM_ORT_FN(KernelInfo_GetNodeName, const OrtKernelInfo* info, char* out, size_t* size);  // 244
  void* slots_245_252[8];
  AXFORM_ORT_FN(KernelContext_GetAllocator, const OrtKernelContext* context, const OrtMemoryInfo* memory,
                OrtAllocator** out);  // 253
  void* slots_254_267[14];
  AXFORM_ORT_FN(ShapeInferContext_GetInputTypeShape, const OrtShapeInferContext* context, size_t index,
                OrtTensorTypeAndShapeInfo** out);  // 268
  AXFORM_ORT_FN(ShapeInferContext_GetAttribute, const OrtShapeInferContext* context, const char* name,
                const OrtOpAttr** out);  // 269
  AXFORM_ORT_FN(ShapeInferContext_SetOutputTypeShape, const OrtShapeInferContext* context, size_t index,
                const OrtTensorTypeAndShapeInfo* info);  // 270
  AXFORM_ORT_FN(SetSymbolicDimensions, OrtTensorTypeAndShapeInfo* info, const char** names, size_t count);  // 271
  AXFORM_ORT_FN(ReadOpAttr, const OrtOpAttr* attribute, OrtOpAttrType type, void* data, size_t bytes, size_t* out);  // 272
  void* slot_273;
  AXFORM_ORT_FN(KernelContext_ParallelFor, const OrtKernelContext* context, void (*fn)(void*, size_t), size_t total,
                size_t num_batch, void* user_data);  // 274
};

struct OrtApiBase {
  const OrtApi*(AXFORM_ORT_CALL* GetApi)(uint32_t version);
  const char*(AXFORM_ORT_CALL* GetVersionString)();
};

struct OrtCustomOp {
  uint32_t version;
  void*(AXFORM_ORT_CALL* CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char*(AXFORM_ORT_CALL* GetName)(const OrtCustomOp*);
  const char*(AXFORM_ORT_CALL* GetExecutionProviderType)(const OrtCustomOp*);
  ONNXTensorElementDataType(AXFORM_ORT_CALL* GetInputType)(const OrtCustomOp*, size_t);
  size_t(AXFORM_ORT_CALL* GetInputTypeCount)(const OrtCustomOp*);
  ONNXTensorElementDataType(AXFORM_ORT_CALL* GetOutputType)(const OrtCustomOp*, size_t);
  size_t(AXFORM_ORT_CALL* GetOutputTypeCount)(const OrtCustomOp*);
  void(AXFORM_ORT_CALL* KernelCompute)(void* kernel, OrtKernelContext*);
  void(AXFORM_ORT_CALL* KernelDestroy)(void* kernel);
  OrtCustomOpInputOutputCharacteristic(AXFORM_ORT_CALL* GetInputCharacteristic)(const OrtCustomOp*, size_t);
  OrtCustomOpInputOutputCharacteristic(AXFORM_ORT_CALL* GetOutputCharacteristic)(const OrtCustomOp*, size_t);
  OrtMemType(AXFORM_ORT_CALL* GetInputMemoryType)(const OrtCustomOp*, size_t);
  int(AXFORM_ORT_CALL* GetVariadicInputMinArity)(const OrtCustomOp*);
  int(AXFORM_ORT_CALL* GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int(AXFORM_ORT_CALL* GetVariadicOutputMinArity)(const OrtCustomOp*);
  int(AXFORM_ORT_CALL* GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus*(AXFORM_ORT_CALL* CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void** kernel);
  OrtStatus*(AXFORM_ORT_CALL* KernelComputeV2)(void* kernel, OrtKernelContext*);
  OrtStatus*(AXFORM_ORT_CALL* InferOutputShapeFn)(const OrtCustomOp*, OrtShapeInferContext*);
  int(AXFORM_ORT_CALL* GetStartVersion)(const OrtCustomOp*);
  int(AXFORM_ORT_CALL* GetEndVersion)(const OrtCustomOp*);
};

#undef AXFORM_ORT_FN

#define AXFORM_ORT_SLOT(name, slot) \
  static_assert(offsetof(OrtApi, name) == (slot) * sizeof(void*), #name " is not in slot " #slot)
AXFORM_ORT_SLOT(CreateStatus, 0);
AXFORM_ORT_SLOT(CreateCustomOpDomain, 26);
AXFORM_ORT_SLOT(GetTensorMutableData, 51);
AXFORM_ORT_SLOT(CreateTensorTypeAndShapeInfo, 57);
AXFORM_ORT_SLOT(GetTensorTypeAndShape, 65);
AXFORM_ORT_SLOT(AllocatorAlloc, 75);
AXFORM_ORT_SLOT(KernelInfoGetAttribute_float, 85);
AXFORM_ORT_SLOT(KernelContext_GetInput, 90);
AXFORM_ORT_SLOT(ReleaseStatus, 93);
AXFORM_ORT_SLOT(ReleaseTensorTypeAndShapeInfo, 99);
AXFORM_ORT_SLOT(ReleaseCustomOpDomain, 101);
AXFORM_ORT_SLOT(ReleaseAllocator, 132);
AXFORM_ORT_SLOT(KernelInfoGetAttributeArray_int64, 163);
AXFORM_ORT_SLOT(KernelContext_GetGPUComputeStream, 193);
AXFORM_ORT_SLOT(GetTensorMemoryInfo, 194);
AXFORM_ORT_SLOT(KernelInfo_GetNodeName, 244);
AXFORM_ORT_SLOT(KernelContext_GetAllocator, 253);
AXFORM_ORT_SLOT(ShapeInferContext_GetInputTypeShape, 268);
AXFORM_ORT_SLOT(ReadOpAttr, 272);
AXFORM_ORT_SLOT(KernelContext_ParallelFor, 274);
#undef AXFORM_ORT_SLOT

static_assert(offsetof(OrtCustomOp, GetEndVersion) == 21 * sizeof(void*), "OrtCustomOp of version 17 has 22 fields");

}  // namespace axform::ort
