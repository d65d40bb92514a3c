#include "select.h"

#include <cstring>

namespace axform::cpu {
namespace {

struct Cut {
  uint32_t rank;  // all smaller ranks are taken,
  int64_t ties;   // and so many that equal it
};

// One digit of 11 bits at a time, the highest first.
Cut find_cut(const uint32_t* ranks, int64_t count, int64_t take, uint32_t largest_rank, uint32_t* histogram) {
  constexpr int kBits = 11;
  int shift = 0;
  while ((static_cast<uint64_t>(largest_rank) >> shift) >= kHistogramBins) shift += kBits;
  uint32_t prefix = 0;  // the digits found so far
  int64_t left = take;
  for (bool first = true;; shift -= kBits, first = false) {
    const uint32_t bins = first ? (largest_rank >> shift) + 1 : kHistogramBins;
    std::memset(histogram, 0, bins * sizeof(uint32_t));
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t r = ranks[i];
      if (r > largest_rank) continue;
      const uint32_t high = r >> shift;
      if (first || high >> kBits == prefix) ++histogram[first ? high : high & (kHistogramBins - 1)];
    }
    uint32_t bin = 0;
    while (left > histogram[bin]) left -= histogram[bin++];
    prefix = first ? bin : prefix << kBits | bin;
    if (shift == 0) return {prefix, left};
  }
}

}  // namespace

int64_t select_smallest(const uint32_t* ranks, int64_t count, int64_t take, uint32_t largest_rank, uint32_t* histogram,
                        int32_t* index) {
  if (take == 0) return 0;
  const Cut cut = find_cut(ranks, count, take, largest_rank, histogram);
  int64_t ties = cut.ties;
  int64_t taken = 0;
  for (int64_t i = 0; i < count && taken < take; ++i) {
    const bool tied = ranks[i] == cut.rank && ties > 0;
    ties -= tied;
    index[taken] = static_cast<int32_t>(i);
    taken += (ranks[i] < cut.rank) | tied;
  }
  return taken;
}

}  // namespace axform::cpu
