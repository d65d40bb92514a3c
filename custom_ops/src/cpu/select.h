// Selection of the best-ranked keys without sorting: a histogram finds the rank up to which keys are taken.
#pragma once

#include <cstdint>

namespace axform::cpu {

inline constexpr int kHistogramBins = 2048;

// Writes the positions of the `take` smallest of ranks[0..count), ties by position, in rising order, and returns how
// many were written. At least `take` ranks must be at most `largest_rank`; larger ones are never taken.
// `histogram` has kHistogramBins entries; `index` has room for take + 1 (the last is written to but unused).
int64_t select_smallest(const uint32_t* ranks, int64_t count, int64_t take, uint32_t largest_rank, uint32_t* histogram,
                        int32_t* index);

}  // namespace axform::cpu
