// C entries that plan a CUDA launch as the library does and run its kernels in the emulator, for test_cuda_emulated.py.
#include <string>
#include <vector>

#include "cuda/launches.cuh"
#include "cuda/unpack.cuh"
#include "raw_call.h"

// sizes: batch, heads, queries, keys, head size, value size, heads packed into rank 3 (0 or 1). limits: compute
// capability, multiprocessors, shared bytes. Returns null, or an error message.
extern "C" const char* emulate_attention(int hard, int element, const void* q, const void* k, const void* v,
                                         const uint8_t* key_mask, void* y, const int64_t* sizes, int64_t kept,
                                         float scale, int causal, int by_count, float prefix, const int* limits) {
  using namespace axform;
  static std::string message;
  try {
    const cuda::RawCall call("emulated", sizes, sizes[6] != 0, key_mask != nullptr, kept, scale, causal != 0,
                             by_count != 0, prefix);
    const auto type = static_cast<cuda::Element>(element);
    const cuda::TensorPointers tensors{q, k, v, key_mask, y};
    const cuda::DeviceLimits device{limits[0], limits[1], limits[2]};
    auto launch = [](const char*, auto kernel, int blocks, int threads, int shared_bytes, const cuda::Problem& p) {
      cuda::emulator::launch(kernel, blocks, p.batch * p.heads, threads, shared_bytes, p);
    };
    if (hard) {
      const cuda::LaunchPlan plan = cuda::plan_hard_attention(call.attributes, call.shape, type, tensors, device);
      cuda::hard_attention_launches(plan, type, launch);
    } else {
      const cuda::LaunchPlan plan = cuda::plan_sign_matching(call.attributes, call.shape, type, tensors, device);
      std::vector<uint32_t> scratch(plan.scratch_bytes() / 4 + 1, 0xdeadbeef);
      cuda::sign_matching_launches(plan, type, scratch.data(), launch);
    }
    return nullptr;
  } catch (const OpError& error) {
    message = error.message;
  }
  return message.c_str();
}

extern "C" void emulate_unpack_bits(const uint8_t* packed, int64_t bytes, int bits, int64_t count, int8_t* codes) {
  using namespace axform::cuda;
  emulator::launch(unpack_codes, 2, 1, kThreads, 0, packed, bytes, bits, count, codes);
}
