#include "simd_generic.h"

#include "kernels_impl.h"

namespace axform::cpu {
const Kernels& generic_kernels() { return kKernels; }
}  // namespace axform::cpu
