#include "simd_avx2.h"

#include "kernels_impl.h"

namespace axform::cpu {
const Kernels& avx2_kernels() { return kKernels; }
}  // namespace axform::cpu
