// C entry to the CUDA kernels on raw device pointers, for tests that compare them with other implementations.
#include <exception>
#include <string>

#include "../export.h"
#include "launch.h"
#include "raw_call.h"

// Runs sign matching on the current device. element: 0 float32, 1 float16, 2 bfloat16; tensors are (batch, heads, rows,
// size), sizes: batch, heads, queries, keys, head size, value size; key_mask may be null; scratch is device memory.
// Returns null, or an error message that stays valid until the thread's next call.
extern "C" AXFORM_EXPORT const char* axform_cuda_sign_matching(int element, const void* q, const void* k,
                                                               const void* v, const uint8_t* key_mask, void* y,
                                                               const int64_t* sizes, int64_t kept, float scale,
                                                               int causal, int by_count, float prefix, void* scratch,
                                                               uint64_t scratch_bytes, void* stream) {
  using namespace axform;
  thread_local std::string message;
  try {
    const cuda::RawCall call("axform_cuda_sign_matching", sizes, false, key_mask != nullptr, kept, scale, causal != 0,
                             by_count != 0, prefix);
    if (call.shape.empty()) return nullptr;
    const auto type = static_cast<cuda::Element>(element);
    const cuda::LaunchPlan plan =
        cuda::plan_sign_matching(call.attributes, call.shape, type, {q, k, v, key_mask, y}, cuda::device_limits());
    if (plan.scratch_bytes() > scratch_bytes) {
      throw OpError{"needs " + std::to_string(plan.scratch_bytes()) + " bytes of scratch memory"};
    }
    cuda::launch_sign_matching(plan, type, scratch, stream);
    return nullptr;
  } catch (const OpError& error) {
    message = error.message;
  } catch (const std::exception& error) {
    message = error.what();
  }
  return message.c_str();
}
