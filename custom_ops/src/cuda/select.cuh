// Key selection by one block, from the votes and the key signs of the first launch.
//
// Every block of a head repeats it: reading 8 bytes a key again costs less than a third launch or a grid-wide barrier.
// Ranks order keys, the smaller the better; 0 is free for "taken already" and kExcluded marks padding.
#pragma once

#include "device.h"
#include "problem.h"

namespace axform::cuda {

constexpr uint32_t kExcluded = 0xffffffffu;

// The keys that a selection takes: those of a smaller rank, and those of this rank up to a position.
struct Cut {
  uint32_t rank;
  int position;

  AXFORM_DEVICE bool takes(uint32_t r, int key) const { return r < rank || (r == rank && key <= position); }
};

// What the rank of a key follows from, beside what `prepare` leaves in shared memory.
struct Ranking {
  const uint32_t* signs;  // of the head's keys
  int sign_words, head_size;
  bool by_count;
  uint32_t base;  // a rank is base - score with selection "count"
};

// Rank of a key that is no padding.
AXFORM_DEVICE uint32_t rank_of(const Ranking& ranking, const SelectShared& shared, int key) {
  const uint32_t* words = ranking.signs + static_cast<int64_t>(key) * ranking.sign_words;
  if (!ranking.by_count) {
    int distance = 1;
    for (int word = 0; word < ranking.sign_words; ++word) {
      distance += bit_count(read_only(words + word) ^ shared.target[word]);
    }
    return static_cast<uint32_t>(distance);
  }
  int score = 0;
  for (int word = 0; word < ranking.sign_words; ++word) {
    const uint32_t bits = read_only(words + word);
    AXFORM_UNROLL_BY(8)
    for (int i = 0; i < 32 && word * 32 + i < ranking.head_size; ++i) {
      if (bits >> i & 1) score += shared.weights[word * 32 + i];
    }
  }
  return ranking.base - static_cast<uint32_t>(score);
}

// The same where ranks are not kept. A call, since it is used in many places; by value, which leaves the caller's in
// registers.
AXFORM_DEVICE_CALL uint32_t rank_again(Ranking ranking, const SelectShared& shared, int key) {
  return rank_of(ranking, shared, key);
}

// Calls use(i, load(i)) for every i below `total`, one thread each. A thread loads for four before it uses the first, so
// that it waits for memory once.
template <int Threads, class Load, class Use>
AXFORM_DEVICE void for_each_loaded(int total, Load load, Use use) {
  constexpr int kAhead = 4;
  for (int first = thread(); first < total; first += kAhead * Threads) {
    decltype(load(0)) loaded[kAhead];
    AXFORM_UNROLL
    for (int j = 0; j < kAhead; ++j) {
      const int i = first + j * Threads;
      loaded[j] = load(i < total ? i : first);
    }
    AXFORM_UNROLL
    for (int j = 0; j < kAhead; ++j) {
      if (first + j * Threads < total) use(first + j * Threads, loaded[j]);
    }
  }
}

template <int Threads>
class KeySelector {
 public:
  AXFORM_DEVICE KeySelector(const Problem& p, int batch_head, SelectShared& shared, uint32_t* ranks)
      : p_(p),
        shared_(shared),
        ranks_(ranks),
        mask_(p.key_mask == nullptr ? nullptr : p.key_mask + static_cast<int64_t>(batch_head / p.heads) * p.keys),
        votes_(p.votes + static_cast<int64_t>(batch_head) * p.chunks * (p.head_size + 1)),
        ranking_{p.key_signs + static_cast<int64_t>(batch_head) * p.keys * p.sign_words, p.sign_words, p.head_size,
                 p.by_count != 0, 0} {}

  AXFORM_DEVICE bool valid(int key) const { return mask_ == nullptr || read_only(mask_ + key) != 0; }

  AXFORM_DEVICE int select(int* index) {
    if (p_.select_all != 0) {
      return compact(index, [&](int key) { return valid(key); });
    }
    const int valid_keys = prepare();
    taken_ = {0, -1};
    if (p_.causal != 0) {
      const double share = static_cast<double>(p_.prefix);
      const int prefix_keys = static_cast<int>(share * valid_keys);
      const int wanted = static_cast<int>(share * p_.kept);
      const int end = mask_ == nullptr ? prefix_keys : position_of(p_.keys, prefix_keys, [&](int key) {
                                                        return valid(key);
                                                      }) + 1;
      prefix_end_ = end;
      taken_ = cut(end, wanted < prefix_keys ? wanted : prefix_keys);
    }
    const Cut best = cut(p_.keys, p_.kept < valid_keys ? p_.kept : valid_keys);
    return compact(index, [&](int key) { return best.takes(rank(key), key); });
  }

 private:
  // Votes to weights and to the majority's signs; ranks into shared memory where they fit. Returns how many keys are real.
  AXFORM_DEVICE int prepare() {
    const int entries = p_.head_size + 1;
    for (int i = thread(); i < entries; i += Threads) shared_.weights[i] = 0;
    sync_block();
    for_each_loaded<Threads>(
        p_.chunks * entries, [&](int i) { return read_only(votes_ + i); },
        [&](int i, int votes) { add_atomic(shared_.weights + i % entries, votes); });
    sync_block();
    const int valid_keys = shared_.weights[p_.head_size];
    const int valid_queries = p_.queries == p_.keys ? valid_keys : p_.queries;
    for (int i = thread(); i < p_.head_size; i += Threads) shared_.weights[i] = 2 * shared_.weights[i] - valid_queries;
    sync_block();
    for (int word = warp(); word < p_.sign_words; word += Threads / 32) {
      const int i = word * 32 + lane();
      const uint32_t bits = ballot(i < p_.head_size && shared_.weights[i < p_.head_size ? i : 0] >= 0);
      if (lane() == 0) shared_.target[word] = bits;
    }
    ranking_.base = static_cast<uint32_t>(valid_queries) * static_cast<uint32_t>(p_.head_size) + 1u;
    largest_ = p_.by_count != 0 ? 2u * ranking_.base : static_cast<uint32_t>(p_.head_size) + 1u;
    sync_block();
    if (ranks_ != nullptr) {
      keep_ranks();
      sync_block();
    }
    return valid_keys;
  }

  AXFORM_DEVICE void keep_ranks() {
    if (p_.by_count != 0 || p_.sign_words > 2) {
      for (int key = thread(); key < p_.keys; key += Threads) {
        ranks_[key] = valid(key) ? rank_of(ranking_, shared_, key) : kExcluded;
      }
      return;
    }
    struct Signs {
      uint32_t low, high;
      int real;
    };
    const bool two = p_.sign_words == 2;
    const uint32_t low = shared_.target[0];
    const uint32_t high = two ? shared_.target[1] : 0u;
    for_each_loaded<Threads>(
        p_.keys,
        [&](int key) {
          const uint32_t* words = ranking_.signs + static_cast<int64_t>(key) * p_.sign_words;
          return Signs{read_only(words), two ? read_only(words + 1) : 0u, mask_ == nullptr ? 1 : read_only(mask_ + key)};
        },
        [&](int key, Signs signs) {
          const int distance = 1 + bit_count(signs.low ^ low) + bit_count(signs.high ^ high);
          ranks_[key] = signs.real != 0 ? static_cast<uint32_t>(distance) : kExcluded;
        });
  }

  AXFORM_DEVICE uint32_t rank(int key) const {
    uint32_t r = kExcluded;
    if (ranks_ != nullptr) {
      r = ranks_[key];
    } else if (valid(key)) {
      r = rank_again(ranking_, shared_, key);
    }
    return key < prefix_end_ && taken_.takes(r, key) ? 0 : r;
  }

  // The cut that takes `take` of the keys [0, end): one digit of the rank at a time, the highest first.
  AXFORM_DEVICE Cut cut(int end, int take) {
    if (take == 0) return {0, -1};
    int shift = 0;
    while (largest_ >> shift >= kBins) shift += 8;
    uint32_t prefix = 0;
    int left = take;
    for (bool top = true; shift >= 0; shift -= 8, top = false) {
      for (int bin = thread(); bin < kBins; bin += Threads) shared_.histogram[bin] = 0;
      sync_block();
      for (int key = thread(); key < end; key += Threads) {
        const uint32_t r = rank(key);
        if (r <= largest_ && (top || r >> (shift + 8) == prefix)) add_atomic(shared_.histogram + (r >> shift & 255), 1);
      }
      sync_block();
      if (warp() == 0) find_bin(left);
      sync_block();
      prefix = prefix << 8 | static_cast<uint32_t>(shared_.results[0]);
      left = shared_.results[1];
      sync_block();
    }
    return {prefix, position_of(end, left, [&](int key) { return rank(key) == prefix; })};
  }

  // results[0]: the bin in which the `wanted`-th entry lies; results[1]: which one of that bin's it is.
  AXFORM_DEVICE void find_bin(int wanted) {
    constexpr int kEach = kBins / 32;
    int sum = 0;
    for (int i = 0; i < kEach; ++i) sum += shared_.histogram[lane() * kEach + i];
    int before = sum;
    for (int by = 1; by < 32; by *= 2) {
      const int lower = shuffle_up(before, by);
      if (lane() >= by) before += lower;
    }
    before -= sum;
    if (before < wanted && wanted <= before + sum) {
      int bin = lane() * kEach;
      for (; before + shared_.histogram[bin] < wanted; ++bin) before += shared_.histogram[bin];
      shared_.results[0] = bin;
      shared_.results[1] = wanted - before;
    }
  }

  // Each warp takes a contiguous range of keys, so that counts of earlier warps order the keys of later ones.
  AXFORM_DEVICE int range_start(int end, int w) const {
    const int steps = (end + Threads - 1) / Threads;
    const int start = w * steps * 32;
    return start < end ? start : end;
  }

  // warp_totals[w]: keys of warp w's range of [0, end) that fulfil the predicate. Ends with a barrier.
  template <class Predicate>
  AXFORM_DEVICE void count_ranges(int end, Predicate predicate) {
    const int start = range_start(end, warp());
    const int stop = range_start(end, warp() + 1);
    int total = 0;
    for (int key = start + lane(); key - lane() < stop; key += 32) {
      total += bit_count(ballot(key < stop && predicate(key)));
    }
    if (lane() == 0) shared_.warp_totals[warp()] = total;
    sync_block();
  }

  AXFORM_DEVICE int total_before(int w) const {
    int total = 0;
    for (int i = 0; i < w; ++i) total += shared_.warp_totals[i];
    return total;
  }

  // Position of the `wanted`-th key that fulfils the predicate; -1 if wanted is 0.
  template <class Predicate>
  AXFORM_DEVICE int position_of(int end, int wanted, Predicate predicate) {
    if (wanted == 0) return -1;
    count_ranges(end, predicate);
    int before = total_before(warp());
    if (before < wanted && wanted <= before + shared_.warp_totals[warp()]) {
      const int stop = range_start(end, warp() + 1);
      for (int key = range_start(end, warp()) + lane(); key - lane() < stop; key += 32) {
        const bool found = key < stop && predicate(key);
        const uint32_t all = ballot(found);
        if (found && before + bit_count(all & ((2u << lane()) - 1u)) == wanted) shared_.results[2] = key;
        before += bit_count(all);
      }
    }
    sync_block();
    const int position = shared_.results[2];
    sync_block();
    return position;
  }

  template <class Predicate>
  AXFORM_DEVICE int compact(int* index, Predicate predicate) {
    count_ranges(p_.keys, predicate);
    int slot = total_before(warp());
    const int total = total_before(Threads / 32);
    const int stop = range_start(p_.keys, warp() + 1);
    for (int key = range_start(p_.keys, warp()) + lane(); key - lane() < stop; key += 32) {
      const bool found = key < stop && predicate(key);
      const uint32_t all = ballot(found);
      if (found) index[slot + bit_count(all & ((1u << lane()) - 1u))] = key;
      slot += bit_count(all);
    }
    sync_block();
    return total;
  }

  const Problem p_;  // a copy, which is read once and then in registers
  SelectShared& shared_;
  uint32_t* ranks_;
  const uint8_t* mask_;
  const int* votes_;
  Ranking ranking_;
  uint32_t largest_ = 0;
  Cut taken_ = {0, -1};
  int prefix_end_ = 0;
};

// Writes the keys that the block's head keeps to `index`, in rising order, and returns how many there are; ends with a
// barrier. `ranks`: memory for the rank of every key, or null. A call, which keeps its registers apart from attention's.
template <int Threads>
AXFORM_DEVICE_CALL int select_keys(const Problem& p, SelectShared& shared, uint32_t* ranks, int* index) {
  return KeySelector<Threads>(p, block_y(), shared, ranks).select(index);
}

// What a row sees in causal attention: the selected keys up to its own position, and that position besides.
struct CausalRow {
  int limit;  // selected keys at or before the row
  bool own;   // the row's position is a real token that was not selected
};

AXFORM_DEVICE CausalRow causal_row(const Problem& p, int b, int row, const int* index, int selected) {
  int low = 0, high = selected;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (index[middle] <= row) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const uint8_t* mask = p.key_mask == nullptr ? nullptr : p.key_mask + static_cast<int64_t>(b) * p.keys;
  const bool real = row < p.queries && (mask == nullptr || mask[row] != 0);
  return {low, real && (low == 0 || index[low - 1] != row)};
}

}  // namespace axform::cuda
