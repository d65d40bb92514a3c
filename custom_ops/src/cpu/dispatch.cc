// Picks the instruction set once, when the first kernel is asked for.
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "kernels.h"
#if defined(AXFORM_HAVE_X86)
#include "x86_features.h"
#endif

namespace axform::cpu {

const Kernels& generic_kernels();
#if defined(AXFORM_HAVE_X86)
const Kernels& avx512_kernels();
const Kernels& avx2_kernels();
#endif
#if defined(AXFORM_HAVE_NEON)
const Kernels& neon_kernels();
#endif

namespace {

struct Choice {
  const char* name;
  const Kernels& (*kernels)();
  bool (*supported)();
};

constexpr Choice kChoices[] = {  // the best first
#if defined(AXFORM_HAVE_X86)
    {"avx512", avx512_kernels, has_avx512},
    {"avx2", avx2_kernels, has_avx2},
#endif
#if defined(AXFORM_HAVE_NEON)
    {"neon", neon_kernels, [] { return true; }},
#endif
    {"generic", generic_kernels, [] { return true; }},
};

const Kernels& choose() {
  if (const char* wanted = std::getenv("AXFORM_CPU_ISA")) {
    for (const Choice& choice : kChoices) {
      if (std::strcmp(choice.name, wanted) == 0 && choice.supported()) return choice.kernels();
    }
  }
  for (const Choice& choice : kChoices) {
    if (choice.supported()) return choice.kernels();
  }
  return generic_kernels();
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

const char* compiled_instruction_set(size_t i) { return i < std::size(kChoices) ? kChoices[i].name : nullptr; }

}  // namespace axform::cpu
