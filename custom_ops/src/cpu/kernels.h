// The inner loops of the CPU kernels, compiled once per instruction set and chosen when the library is loaded.
#pragma once

#include <cstddef>
#include <cstdint>

namespace axform::cpu {

// Rows of one head: row i starts at data + i * stride. `mask` is null, or tells by 0 which rows are padding.
struct Rows {
  const float* data;
  int64_t stride;
  int64_t count;
  const uint8_t* mask;

  const float* row(int64_t i) const { return data + i * stride; }
  bool valid(int64_t i) const { return mask == nullptr || mask[i] != 0; }
};

// Ranks order keys: smaller is better, equal ranks go by position, 0 is free for "taken already".
inline constexpr uint32_t kExcludedRank = 0xffffffffu;
// sign_score_rank is kScoreRankBase - score; scores stay within +-2^30.
inline constexpr uint32_t kScoreRankBase = 0x40000001u;

// Attention of a block of query rows over one head's selected keys.
struct AttendTask {
  Rows queries;                // head_size wide
  int64_t head_size;           // of queries and keys
  int64_t value_size;          // of values and output
  int64_t keys;                // selected keys
  const float* packed_keys;    // pack_keys(), times the sign of the scale
  const float* packed_values;  // pack_values()
  float* output;               // row i starts at output + i * output_stride
  int64_t output_stride;
  float* scores;  // scratch of score_floats() for at least `keys`
  // Rows of the head that this worker takes next, read ahead while it computes; null data for none.
  Rows next_queries, next_keys;
  float score_factor;          // |scale| * log2(e): weights are powers of two
  float key_sign;              // the sign of the scale, for keys that are not packed
  // Causal attention only; null otherwise.
  const int32_t* limit;    // row i sees the first limit[i] selected keys
  const uint8_t* own;      // row i also sees its own position, whose key and value follow
  const float* own_key;    // row i's key is at own_key + i * own_key_stride
  int64_t own_key_stride;
  const float* own_value;
  int64_t own_value_stride;
  // attend_top() only: each row keeps its `top` largest probabilities, without renormalising.
  int64_t top;
};

struct Kernels {
  const char* name;
  int lanes;  // keys and value columns are padded to a multiple of this

  // counts[i] = number of valid rows whose element i is positive
  void (*count_positive)(const Rows& rows, int64_t head_size, int32_t* counts);
  // ranks[k] = 1 + Hamming distance of row k's signs to `target`, kExcludedRank for padding
  void (*sign_distance_ranks)(const Rows& rows, int64_t head_size, const uint64_t* target, uint32_t* ranks);
  // ranks[k] = kScoreRankBase - sum of weights[i] where row k's element i is positive, kExcludedRank for padding
  void (*sign_score_ranks)(const Rows& rows, int64_t head_size, const int32_t* weights, uint32_t* ranks);

  void (*pack_keys)(const Rows& rows, const int32_t* index, int64_t keys, int64_t head_size, float factor, float* out);
  void (*pack_values)(const Rows& rows, const int32_t* index, int64_t keys, int64_t value_size, float* out);
  void (*attend)(const AttendTask& task);
  void (*attend_top)(const AttendTask& task);
  int64_t (*score_floats)(int64_t most_keys);
};

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// The kernels for this machine, or those that AXFORM_CPU_ISA (avx512, avx2, neon, generic) asks for.
const Kernels& kernels();
// Name of the i-th instruction set compiled in, the best one first; null after the last.
const char* compiled_instruction_set(size_t i);

}  // namespace axform::cpu
