#include "unpack_bits.h"

#include "../unpack_arithmetic.h"

namespace axform::cpu {
namespace {

// Eight codes take exactly Bits bytes.
template <int Bits>
void unpack(const uint8_t* packed, int64_t bytes, int64_t count, int8_t* codes) {
  const int64_t groups = count / 8;
  for (int64_t g = 0; g < groups; ++g) {
    uint64_t group = 0;
    for (int i = 0; i < Bits; ++i) group |= static_cast<uint64_t>(packed[g * Bits + i]) << (8 * i);
    for (int i = 0; i < 8; ++i) {
      constexpr uint32_t kSign = 1u << (Bits - 1);
      const uint32_t code = static_cast<uint32_t>(group >> (i * Bits)) & ((1u << Bits) - 1u);
      codes[g * 8 + i] = static_cast<int8_t>(static_cast<int32_t>(code ^ kSign) - static_cast<int32_t>(kSign));
    }
  }
  for (int64_t i = groups * 8; i < count; ++i) codes[i] = unpack_code(packed, bytes, i * Bits, Bits);
}

}  // namespace

void unpack_bits(const uint8_t* packed, int64_t bytes, int bits, int64_t count, int8_t* codes) {
  switch (bits) {
    case 2: return unpack<2>(packed, bytes, count, codes);
    case 3: return unpack<3>(packed, bytes, count, codes);
    case 4: return unpack<4>(packed, bytes, count, codes);
    case 5: return unpack<5>(packed, bytes, count, codes);
    case 6: return unpack<6>(packed, bytes, count, codes);
    case 7: return unpack<7>(packed, bytes, count, codes);
    default: return unpack<8>(packed, bytes, count, codes);
  }
}

}  // namespace axform::cpu
