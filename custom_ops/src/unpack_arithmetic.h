// The arithmetic of UnpackBits, for the CPU, for CUDA, and for tests.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define AXFORM_HOST_DEVICE __host__ __device__
#else
#define AXFORM_HOST_DEVICE
#endif

namespace axform {

// The two's complement code of `bits` bits that starts at bit `first` of the stream (the lowest bit of a byte first).
AXFORM_HOST_DEVICE inline int8_t unpack_code(const uint8_t* packed, int64_t bytes, int64_t first, int bits) {
  const int64_t byte = first / 8;
  const int shift = static_cast<int>(first % 8);
  uint32_t window = packed[byte];
  if (byte + 1 < bytes) window |= static_cast<uint32_t>(packed[byte + 1]) << 8;
  const uint32_t code = window >> shift & ((1u << bits) - 1u);
  const uint32_t sign = 1u << (bits - 1);
  return static_cast<int8_t>(static_cast<int32_t>(code ^ sign) - static_cast<int32_t>(sign));
}

inline int64_t packed_bytes(int64_t count, int bits) { return count / 8 * bits + (count % 8 * bits + 7) / 8; }

}  // namespace axform
