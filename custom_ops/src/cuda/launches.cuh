// Which kernels a planned call launches, for the device and for the emulator of the tests.
//
// launch(what, kernel, blocks, threads, shared bytes, problem) is called for each, with the blocks of one head.
#pragma once

#include "attend_mma.cuh"
#include "attend_simt.cuh"
#include "hard.cuh"
#include "plan.h"
#include "statistics.cuh"

namespace axform::cuda {

// Calls body(T{}) with the type of the elements.
template <class Body>
void with_element(Element element, Body body) {
  switch (element) {
    case Element::kFloat32: return body(float{});
    case Element::kFloat16: return body(Half{});
    case Element::kBFloat16: return body(BFloat16{});
  }
}

template <class T, class Launch>
void attention_launch(const LaunchPlan& plan, const Problem& p, Launch launch) {
  auto run = [&](auto kernel) {
    launch("the launch of the attention kernel", kernel, plan.blocks, plan.threads, plan.shared_bytes, p);
  };
  if constexpr (sizeof(T) == 2) {
    if (plan.tensor_cores) {
      if (plan.padded == 64) return run(p.causal ? attend_mma<T, 64, true> : attend_mma<T, 64, false>);
      if (plan.padded == 128) return run(p.causal ? attend_mma<T, 128, true> : attend_mma<T, 128, false>);
      return run(p.causal ? attend_mma<T, 256, true> : attend_mma<T, 256, false>);
    }
  }
  if (plan.padded == 64) return run(attend_simt<T, 64>);
  if (plan.padded == 128) return run(attend_simt<T, 128>);
  return run(attend_simt<T, 256>);
}

// `scratch`: plan.scratch_bytes() of device memory.
template <class Launch>
void sign_matching_launches(const LaunchPlan& plan, Element element, void* scratch, Launch launch) {
  Problem p = plan.problem;
  p.key_signs = static_cast<uint32_t*>(scratch);
  p.votes = reinterpret_cast<int*>(static_cast<char*>(scratch) + plan.signs_bytes);
  with_element(element, [&](auto zero) {
    using T = decltype(zero);
    if (p.select_all == 0) {
      const int shared_bytes = (p.head_size + 1) * static_cast<int>(sizeof(int));
      launch("the launch of count_signs", count_signs<T>, p.chunks, kThreads, shared_bytes, p);
    }
    attention_launch<T>(plan, p, launch);
  });
}

template <class Launch>
void hard_attention_launches(const LaunchPlan& plan, Element element, Launch launch) {
  with_element(element, [&](auto zero) {
    launch("the launch of attend_hard", attend_hard<decltype(zero)>, plan.blocks, plan.threads, plan.shared_bytes, plan.problem);
  });
}

}  // namespace axform::cuda
