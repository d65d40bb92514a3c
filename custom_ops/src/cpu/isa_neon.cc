#include "simd_neon.h"

#include "kernels_impl.h"

namespace axform::cpu {
const Kernels& neon_kernels() { return kKernels; }
}  // namespace axform::cpu
