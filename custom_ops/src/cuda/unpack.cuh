// Dense two's complement codes to int8: one thread a code.
#pragma once

#include "../unpack_arithmetic.h"
#include "device.h"
#include "problem.h"

namespace axform::cuda {

AXFORM_KERNEL void AXFORM_LAUNCH_BOUNDS(kThreads) unpack_codes(const uint8_t* packed, int64_t bytes, int bits,
                                                               int64_t count, int8_t* codes) {
  const int64_t step = static_cast<int64_t>(grid_x()) * kThreads;
  for (int64_t i = static_cast<int64_t>(block_x()) * kThreads + thread(); i < count; i += step) {
    codes[i] = unpack_code(packed, bytes, i * bits, bits);
  }
}

}  // namespace axform::cuda
