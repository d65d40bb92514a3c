// Dense two's complement codes to int8, on the CPU.
#pragma once

#include <cstdint>

namespace axform::cpu {

// Code i occupies bits [i * bits, (i + 1) * bits) of the stream, the lowest bit of a byte first; 2 <= bits <= 8.
void unpack_bits(const uint8_t* packed, int64_t bytes, int bits, int64_t count, int8_t* codes);

}  // namespace axform::cpu
