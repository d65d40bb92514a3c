#include "launch.h"

#include <mutex>
#include <string>
#include <vector>

#include "attend_mma.cuh"
#include "attend_simt.cuh"
#include "hard.cuh"
#include "statistics.cuh"
#include "unpack.cuh"

namespace axform::cuda {
namespace {

void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clear it: the session may go on elsewhere
  throw OpError{std::string("axform: ") + what + " failed: " + cudaGetErrorString(error)};
}

// More than 48 KB of shared memory must be asked for, once for each kernel and device.
template <class Kernel>
void allow_shared_memory(Kernel kernel, int bytes) {
  if (bytes <= 48 * 1024) return;
  require(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "cudaFuncSetAttribute");
}

template <class T>
void launch_attention(const LaunchPlan& plan, const Problem& p, cudaStream_t stream) {
  const dim3 grid(plan.blocks, p.batch * p.heads);
  auto run = [&](auto kernel) {
    allow_shared_memory(kernel, plan.shared_bytes);
    kernel<<<grid, plan.threads, plan.shared_bytes, stream>>>(p);
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

template <class Body>
void with_element(Element element, Body body) {
  switch (element) {
    case Element::kFloat32: return body(float{});
    case Element::kFloat16: return body(Half{});
    case Element::kBFloat16: return body(BFloat16{});
  }
}

}  // namespace

DeviceLimits device_limits() {
  static std::mutex mutex;
  static std::vector<DeviceLimits> known;
  int device = 0;
  require(cudaGetDevice(&device), "cudaGetDevice");
  const std::lock_guard<std::mutex> lock(mutex);
  if (static_cast<size_t>(device) >= known.size()) known.resize(device + 1);
  DeviceLimits& limits = known[device];
  if (limits.multiprocessors == 0) {
    int major = 0, minor = 0;
    require(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
    require(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
    require(cudaDeviceGetAttribute(&limits.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
            "cudaDeviceGetAttribute");
    require(cudaDeviceGetAttribute(&limits.multiprocessors, cudaDevAttrMultiProcessorCount, device),
            "cudaDeviceGetAttribute");
    limits.compute_capability = major * 10 + minor;
  }
  return limits;
}

void launch_sign_matching(const LaunchPlan& plan, Element element, void* scratch, void* stream) {
  Problem p = plan.problem;
  const cudaStream_t on = static_cast<cudaStream_t>(stream);
  p.key_signs = static_cast<uint32_t*>(scratch);
  p.votes = reinterpret_cast<int*>(static_cast<char*>(scratch) + plan.signs_bytes);
  with_element(element, [&](auto zero) {
    using T = decltype(zero);
    if (p.select_all == 0) {
      count_signs<T><<<dim3(p.chunks, p.batch * p.heads), kThreads, (p.head_size + 1) * sizeof(int), on>>>(p);
      require(cudaGetLastError(), "the launch of count_signs");
    }
    launch_attention<T>(plan, p, on);
  });
  require(cudaGetLastError(), "the launch of the attention kernel");
}

void launch_hard_attention(const LaunchPlan& plan, Element element, void* stream) {
  with_element(element, [&](auto zero) {
    using T = decltype(zero);
    allow_shared_memory(attend_hard<T>, plan.shared_bytes);
    attend_hard<T><<<dim3(plan.blocks, plan.problem.batch * plan.problem.heads), plan.threads, plan.shared_bytes,
                     static_cast<cudaStream_t>(stream)>>>(plan.problem);
  });
  require(cudaGetLastError(), "the launch of attend_hard");
}

void launch_unpack_bits(const uint8_t* packed, int64_t bytes, int bits, int64_t count, int8_t* codes, void* stream) {
  if (count == 0) return;
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  unpack_codes<<<static_cast<unsigned>(blocks < 65536 ? blocks : 65536), kThreads, 0,
                 static_cast<cudaStream_t>(stream)>>>(packed, bytes, bits, count, codes);
  require(cudaGetLastError(), "the launch of unpack_codes");
}

const char* compiled_version() {
  static const std::string version =
      std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  return version.c_str();
}

}  // namespace axform::cuda
