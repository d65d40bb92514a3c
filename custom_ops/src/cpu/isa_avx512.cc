#include "simd_avx512.h"

#include "kernels_impl.h"

namespace axform::cpu {
const Kernels& avx512_kernels() { return kKernels; }
}  // namespace axform::cpu
