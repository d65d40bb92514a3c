// The CPU kernels in terms of `Simd`, which the including file has chosen. No standard library templates here: a
// function that the linker shares between translation units must not carry one instruction set to another's machine.
#pragma once

#include "attend_impl.h"
#include "attend_top_impl.h"
#include "kernels.h"
#include "pack_impl.h"
#include "signs_impl.h"

namespace axform::cpu {
namespace {

constexpr Kernels kKernels = {
    Simd::kName,      Simd::kWidth, count_positive, sign_distance_ranks, sign_score_ranks,
    pack_keys,        pack_values,  attend,         attend_top,  score_floats,
};

}  // namespace
}  // namespace axform::cpu
