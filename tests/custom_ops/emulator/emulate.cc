// C entries that plan a CUDA launch as the library does and run its kernels in the emulator, for test_cuda_emulated.py.
#include <string>

#include "cuda/attend_mma.cuh"
#include "cuda/attend_simt.cuh"
#include "cuda/hard.cuh"
#include "cuda/plan.h"
#include "cuda/statistics.cuh"
#include "cuda/unpack.cuh"

namespace axform::cuda {
namespace {

template <class T>
void attention(const LaunchPlan& plan, const Problem& p) {
  auto run = [&](auto kernel) {
    emulator::launch(kernel, plan.blocks, p.batch * p.heads, plan.threads, plan.shared_bytes, p);
  };
  if constexpr (sizeof(T) == 2) {
    if (plan.tensor_cores) {
      if (plan.padded == 64) return run(p.causal ? attend_mma<T, 64, true> : attend_mma<T, 64, false>);
      if (plan.padded == 128) return run(p.causal ? attend_mma<T, 128, true> : attend_mma<T, 128, false>);
      return run(p.causal ? attend_mma<T, 256, true> : attend_mma<T, 256, false>);
    }
  }
  if (plan.padded == 64) return run(attend_simt<T, 64>);
  if (plan.padded == 128) return run(attend_simt<T, 128>);
  return run(attend_simt<T, 256>);
}

template <class T>
void sign_matching(const LaunchPlan& plan) {
  Problem p = plan.problem;
  std::vector<uint32_t> signs(plan.signs_bytes / 4 + 1, 0xdeadbeef);
  std::vector<int> votes(plan.votes_bytes / 4 + 1, -1);
  p.key_signs = signs.data();
  p.votes = votes.data();
  if (!p.select_all) {
    emulator::launch(count_signs<T>, p.chunks, p.batch * p.heads, kThreads,
                     (p.head_size + 1) * static_cast<int>(sizeof(int)), p);
  }
  attention<T>(plan, p);
}

template <class T>
void hard(const LaunchPlan& plan) {
  emulator::launch(attend_hard<T>, plan.blocks, plan.problem.batch * plan.problem.heads, plan.threads,
                   plan.shared_bytes, plan.problem);
}

}  // namespace
}  // namespace axform::cuda

// sizes: batch, heads, queries, keys, head size, value size, heads packed into rank 3 (0 or 1). limits: compute
// capability, multiprocessors, shared bytes. Returns null, or an error message.
extern "C" const char* emulate_attention(int hard, int element, const void* q, const void* k, const void* v,
                                         const uint8_t* key_mask, void* y, const int64_t* sizes, int64_t kept,
                                         float scale, int causal, int by_count, float prefix, const int* limits) {
  using namespace axform;
  static std::string message;
  try {
    AttentionAttributes a{};
    a.place = "emulated";
    a.k = kept;
    a.scale = scale;
    a.causal = causal != 0;
    a.selection = by_count != 0 ? Selection::kCount : Selection::kMajority;
    a.prefix = prefix;
    const bool packed = sizes[6] != 0;
    a.num_heads = packed ? sizes[1] : 0;
    auto tensor = [&](int64_t rows, int64_t size) {
      Tensor t;
      t.value = reinterpret_cast<const ort::OrtValue*>(sizes);
      t.dims = packed ? Dims{sizes[0], rows, sizes[1] * size} : Dims{sizes[0], sizes[1], rows, size};
      return t;
    };
    Tensor mask;
    if (key_mask != nullptr) {
      mask.value = reinterpret_cast<const ort::OrtValue*>(sizes);
      mask.dims = {sizes[0], sizes[3]};
    }
    const AttentionShape shape =
        attention_shape(a, tensor(sizes[2], sizes[4]), tensor(sizes[3], sizes[4]), tensor(sizes[3], sizes[5]), mask);
    const auto type = static_cast<cuda::Element>(element);
    const cuda::TensorPointers tensors{q, k, v, key_mask, y};
    const cuda::DeviceLimits device{limits[0], limits[1], limits[2]};
    const cuda::LaunchPlan plan = hard ? cuda::plan_hard_attention(a, shape, type, tensors, device)
                                       : cuda::plan_sign_matching(a, shape, type, tensors, device);
    auto run = [&](auto zero) {
      using T = decltype(zero);
      if (hard) {
        cuda::hard<T>(plan);
      } else {
        cuda::sign_matching<T>(plan);
      }
    };
    if (type == cuda::Element::kFloat32) run(float{});
    if (type == cuda::Element::kFloat16) run(cuda::Half{});
    if (type == cuda::Element::kBFloat16) run(cuda::BFloat16{});
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
