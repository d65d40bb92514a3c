// What a launch is told, and the shared-memory layout that host and device agree on.
#pragma once

#include <cstdint>

namespace axform::cuda {

constexpr int kThreads = 256;         // of every kernel but the float32 attention
constexpr int kWarps = kThreads / 32;
constexpr int kMaxHeadSize = 256;
constexpr int kTileKeys = 32;         // keys that one step on the tensor cores works on
constexpr int kBins = 256;
constexpr int kRowsAhead = 4;         // rows that a thread of the first launch reads before it looks at them

struct HeadStrides {
  int64_t batch, head, row;  // in elements
};

struct Problem {
  const void* q;
  const void* k;
  const void* v;
  const uint8_t* key_mask;  // null: every key is a real token
  void* y;
  HeadStrides q_strides, k_strides, v_strides, y_strides;
  int batch, heads, queries, keys, head_size, value_size;

  int kept;            // attribute k
  int select_all;      // keys <= k: plain attention
  int by_count;        // selection "count"
  int causal;
  float prefix;
  float scale_log2;    // scale * log2(e)

  // Written by the first launch, read by the second.
  int chunks;
  int chunk_rows;      // rows of a chunk, which one block of the first launch looks at
  int sign_words;      // 32-bit words of signs a key
  uint32_t* key_signs; // (batch * heads, keys, sign_words); bit i of word w: element 32 w + i is positive
  int* votes;          // (batch * heads, chunks, head_size + 1): positive elements among a chunk's valid queries,
                       // and last how many of its keys are real

  int vectors;         // rows start at multiples of 16 bytes and head sizes are multiples of 8
  int cache_ranks;     // the ranks of all keys fit into shared memory
  int resident_tiles;  // key tiles that stay in shared memory
};

// Elements between rows of a tile on the tensor cores, for head sizes padded to 64, 128 or 256: 16 bytes of padding keep
// ldmatrix free of bank conflicts.
constexpr int tile_stride(int padded) { return padded + 8; }
// Elements of a tile: its keys and its values.
constexpr int tile_elements(int padded) { return 2 * kTileKeys * tile_stride(padded); }

// How the float32 kernel divides its work, for head sizes padded to 64, 128 or 256.
struct SimtShape {
  static constexpr int kThreadCount = 128;
  static constexpr int kWarpCount = kThreadCount / 32;
  int rows;        // of a warp
  int keys;        // of a tile
  int key_stride;  // lanes read one column of different keys
  int floats;      // of shared memory: keys, values, and each warp's queries and weights

  explicit constexpr SimtShape(int padded)
      : rows(padded <= 128 ? 8 : 4),
        keys(padded <= 64 ? 64 : 32),
        key_stride(padded + 1),
        floats(keys * key_stride + keys * padded + kWarpCount * rows * (padded + keys) + 4) {}
};

// Hard attention: shared memory of a warp holds the scores of all keys, a histogram and the query row.
constexpr int kHardWarps = 4;
constexpr int64_t hard_warp_floats(int64_t keys) { return (keys + 3) / 4 * 4 + kBins + kMaxHeadSize; }

// Shared memory of the key selection.
struct SelectShared {
  int weights[kMaxHeadSize + 4];       // per element, sum of the queries' signs; and last how many keys are real
  uint32_t target[kMaxHeadSize / 32];  // "majority": sign of the queries' majority, per element
  int histogram[kBins];
  int warp_totals[kWarps];
  int results[4];
};

}  // namespace axform::cuda
