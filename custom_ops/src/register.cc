// The entry point that ONNX Runtime calls when the library is registered with a session's options.
#include <memory>
#include <mutex>

#include "cpu/ops.h"
#include "export.h"
#include "op_record.h"
#if defined(AXFORM_HAVE_CUDA)
#include "cuda/ops.h"
#endif

namespace axform {
namespace {

constexpr const char* kDomain = "ai.axform";

#if !defined(AXFORM_HAVE_CUDA)
// ONNX Runtime builds an op's schema from the types of all its records. This one belongs to a provider that no session
// has; it only makes half-precision models valid in a library without CUDA kernels, and ONNX Runtime then casts to
// float32 around the CPU kernel.
template <class Op, ort::ONNXTensorElementDataType kType>
class TypeOnly : public AttentionKernel<Op, kType> {
 public:
  static constexpr const char* kProvider = "AxformTypeOnlyExecutionProvider";
  using AttentionKernel<Op, kType>::AttentionKernel;
  void compute(ort::OrtKernelContext*) const { throw OpError{"axform: the op library was built without CUDA"}; }
};
#endif

// The records and their domain. One set serves every session of the process; ONNX Runtime keeps pointers to it until
// the library is unloaded.
class Domain {
 public:
  explicit Domain(const ort::OrtApi& api) : api_(api) {
    check(api.CreateCustomOpDomain(kDomain, &domain_));
    // The first record under a name also supplies the op's schema.
    add<cpu::SignMatching>();
    add<cpu::HardAttention>();
    add<cpu::UnpackBits>();
#if defined(AXFORM_HAVE_CUDA)
    add<cuda::SignMatching<ort::ELEMENT_FLOAT>>();
    add<cuda::SignMatching<ort::ELEMENT_FLOAT16>>();
    add<cuda::SignMatching<ort::ELEMENT_BFLOAT16>>();
    add<cuda::HardAttention<ort::ELEMENT_FLOAT>>();
    add<cuda::HardAttention<ort::ELEMENT_FLOAT16>>();
    add<cuda::HardAttention<ort::ELEMENT_BFLOAT16>>();
    add<cuda::UnpackBits>();
#else
    add<TypeOnly<SignMatchingOp, ort::ELEMENT_FLOAT16>>();
    add<TypeOnly<SignMatchingOp, ort::ELEMENT_BFLOAT16>>();
    add<TypeOnly<HardAttentionOp, ort::ELEMENT_FLOAT16>>();
    add<TypeOnly<HardAttentionOp, ort::ELEMENT_BFLOAT16>>();
#endif
  }
  ~Domain() { api_.ReleaseCustomOpDomain(domain_); }

  ort::OrtCustomOpDomain* get() const { return domain_; }

 private:
  template <class Kernel>
  void add() {
    static OpRecord<Kernel> record(api_);
    check(api_.CustomOpDomain_Add(domain_, &record));
  }

  const ort::OrtApi& api_;
  ort::OrtCustomOpDomain* domain_ = nullptr;
};

}  // namespace
}  // namespace axform

extern "C" AXFORM_EXPORT axform::ort::OrtStatus* AXFORM_ORT_CALL
RegisterCustomOps(axform::ort::OrtSessionOptions* options, const axform::ort::OrtApiBase* base) {
  using namespace axform;
  const ort::OrtApi* api = base->GetApi(ort::kApiVersion);
  if (api == nullptr) {
    const ort::OrtApi* oldest = base->GetApi(1);
    return oldest == nullptr ? nullptr
                             : oldest->CreateStatus(ort::ORT_FAIL,
                                                    "axform: the op library needs ONNX Runtime 1.17 or newer");
  }
  return guarded(*api, [&] {
    static std::mutex mutex;
    static std::unique_ptr<Domain> domain;
    const std::lock_guard<std::mutex> lock(mutex);
    if (domain == nullptr) domain = std::make_unique<Domain>(*api);
    check(api->AddCustomOpDomain(options, domain->get()));
  });
}
