// What is built into the library, for `axform ops`.
#include <string>

#include "cpu/kernels.h"
#include "export.h"
#include "ort_abi.h"
#if defined(AXFORM_HAVE_CUDA)
#include "cuda/ops.h"
#endif

namespace axform {
namespace {

std::string describe() {
  std::string sets;
  for (size_t i = 0; const char* name = cpu::compiled_instruction_set(i); ++i) {
    sets += std::string(sets.empty() ? "" : ", ") + "\"" + name + "\"";
  }
  std::string text = "{\"cpu_instruction_sets\": [" + sets + "], \"cpu_dispatched\": \"" + cpu::kernels().name + "\"";
#if defined(AXFORM_HAVE_CUDA)
  text += std::string(", \"cuda_version\": \"") + cuda::compiled_version() + "\", \"cuda_architectures\": \"" +
          AXFORM_CUDA_ARCHITECTURES + "\"";
#else
  text += ", \"cuda_version\": null, \"cuda_architectures\": \"\"";
#endif
  return text + ", \"abi_version\": " + std::to_string(ort::kApiVersion) + "}";
}

}  // namespace
}  // namespace axform

// A JSON object; the text lives as long as the library.
extern "C" AXFORM_EXPORT const char* axform_build_info() {
  static const std::string text = axform::describe();
  return text.c_str();
}
