#include "launch.h"

#include <mutex>
#include <string>
#include <vector>

#include "launches.cuh"
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

auto launcher(void* stream) {
  return [stream](const char* what, auto kernel, int blocks, int threads, int shared_bytes, const Problem& p) {
    allow_shared_memory(kernel, shared_bytes);
    kernel<<<dim3(blocks, p.batch * p.heads), threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(p);
    require(cudaGetLastError(), what);
  };
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
  sign_matching_launches(plan, element, scratch, launcher(stream));
}

void launch_hard_attention(const LaunchPlan& plan, Element element, void* stream) {
  hard_attention_launches(plan, element, launcher(stream));
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
