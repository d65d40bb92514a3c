// Launches on a stream; needs no CUDA headers, so that only .cu files are compiled by nvcc.
#pragma once

#include "plan.h"

namespace axform::cuda {

// Limits of the current device, read once for each device.
DeviceLimits device_limits();

void launch_sign_matching(const LaunchPlan& plan, Element element, void* scratch, void* stream);
void launch_hard_attention(const LaunchPlan& plan, Element element, void* stream);
void launch_unpack_bits(const uint8_t* packed, int64_t bytes, int bits, int64_t count, int8_t* codes, void* stream);

// Version of the CUDA toolkit that compiled the kernels, such as "13.0".
const char* compiled_version();

}  // namespace axform::cuda
