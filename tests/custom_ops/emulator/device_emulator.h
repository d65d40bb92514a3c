// Runs CUDA kernels on a host: every thread of a block is a fiber, and a barrier or a warp-wide operation hands over to
// the next fiber until all that take part have arrived. Slow, single-threaded and deterministic.
//
// It provides the primitives of custom_ops/src/cuda/device.h. Asynchronous copies happen only when they are waited for,
// so that a forgotten wait shows.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#define AXFORM_KERNEL inline
#define AXFORM_DEVICE inline
#define AXFORM_DEVICE_CALL inline
#define AXFORM_ARGUMENT(type) const type
#define AXFORM_SHARED_MEMORY(name) unsigned char* name = ::axform::cuda::emulator::block().shared
#define AXFORM_LAUNCH_BOUNDS(threads)
#define AXFORM_LAUNCH_BOUNDS_BLOCKS(threads, blocks)
#define AXFORM_UNROLL
#define AXFORM_UNROLL_BY(n)

namespace axform::cuda {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

namespace emulator {

struct Slot {
  uint64_t words[8];
};

// Threads that meet: a block at a barrier, or a warp in an exchange.
struct Meeting {
  int arrived = 0;
  uint64_t generation = 0;
};

struct WarpState {
  Slot slots[2][32];
  Meeting meeting;
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  bool done = false;
  std::vector<std::pair<void*, const void*>> copies;
};

struct Block {
  int threads = 0, x = 0, y = 0, grid_x = 0;
  int current = 0;
  unsigned char* shared = nullptr;
  Meeting barrier;
  std::vector<WarpState> warps;
  std::vector<Fiber> fibers;
  ucontext_t scheduler;
  std::function<void()> body;
};

inline Block& block() {
  static Block state;
  return state;
}

inline void hand_over() {
  Block& b = block();
  swapcontext(&b.fibers[b.current].context, &b.scheduler);
}

inline void meet(Meeting& meeting, int participants) {
  const uint64_t generation = meeting.generation;
  if (++meeting.arrived == participants) {
    meeting.arrived = 0;
    ++meeting.generation;
    return;
  }
  while (meeting.generation == generation) hand_over();
}

// Gives every lane of the warp the slots that all lanes brought.
inline const Slot* exchange(const Slot& mine) {
  Block& b = block();
  WarpState& warp = b.warps[b.current / 32];
  Slot* slots = warp.slots[warp.meeting.generation % 2];
  slots[b.current % 32] = mine;
  meet(warp.meeting, 32);
  return slots;
}

inline void fiber_main() {
  Block& b = block();
  b.body();
  b.fibers[b.current].done = true;
  swapcontext(&b.fibers[b.current].context, &b.scheduler);
}

inline void run_block(int threads, const std::function<void()>& body) {
  Block& b = block();
  b.threads = threads;
  b.body = body;
  b.barrier = {};
  b.warps.assign(threads / 32, {});
  if (b.fibers.size() != static_cast<size_t>(threads)) b.fibers.assign(threads, {});
  for (Fiber& fiber : b.fibers) {
    fiber.done = false;
    fiber.copies.clear();
    if (fiber.stack.empty()) fiber.stack.resize(128 * 1024);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
  }
  for (long rounds = 0;; ++rounds) {
    bool running = false;
    for (b.current = 0; b.current < threads; ++b.current) {
      if (b.fibers[b.current].done) continue;
      running = true;
      swapcontext(&b.scheduler, &b.fibers[b.current].context);
    }
    if (!running) return;
    if (rounds > 10'000'000) {
      std::fprintf(stderr, "emulator: the threads of a block wait for each other\n");
      std::abort();
    }
  }
}

// kernel<<<grid, threads, shared_bytes>>>(arguments...), block after block. Shared memory starts with arbitrary bytes.
template <class Kernel, class... Arguments>
void launch(Kernel kernel, int grid_x, int grid_y, int threads, int shared_bytes, Arguments... arguments) {
  std::vector<uint64_t> memory((shared_bytes + 31) / 8 + 2);
  Block& b = block();
  b.grid_x = grid_x;
  b.shared = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(memory.data()) + 15) / 16 * 16);
  for (b.y = 0; b.y < grid_y; ++b.y) {
    for (b.x = 0; b.x < grid_x; ++b.x) {
      std::memset(b.shared, 0xa5, static_cast<size_t>(shared_bytes));
      run_block(threads, [&] { kernel(arguments...); });
    }
  }
}

inline float half_to_float(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  const uint32_t exponent = h >> 10 & 31;
  const uint32_t fraction = h & 1023;
  if (exponent == 0) {
    const float magnitude = std::ldexp(static_cast<float>(fraction), -24);
    return sign ? -magnitude : magnitude;
  }
  const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | fraction << 13;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline uint16_t float_to_half(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const float magnitude = std::fabs(x);
  if (x != x) return sign | 0x7e00;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  if (magnitude < 0x1p-14f) return sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(magnitude, 24)));
  int exponent;
  const float fraction = std::frexp(magnitude, &exponent);  // [0.5, 1)
  const long rounded = std::lrint(std::ldexp(fraction, 11));
  return static_cast<uint16_t>(sign | (((exponent + 13) << 10) + rounded));
}

inline float bfloat_to_float(uint16_t b) {
  const uint32_t bits = static_cast<uint32_t>(b) << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline uint16_t float_to_bfloat(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace emulator

inline int thread() { return emulator::block().current; }
inline int lane() { return thread() % 32; }
inline int warp() { return thread() / 32; }
inline int block_x() { return emulator::block().x; }
inline int block_y() { return emulator::block().y; }
inline int grid_x() { return emulator::block().grid_x; }
inline void sync_block() { emulator::meet(emulator::block().barrier, emulator::block().threads); }
inline void sync_warp() { emulator::exchange({}); }

inline unsigned ballot(bool predicate) {
  const emulator::Slot* slots = emulator::exchange({{predicate}});
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i) bits |= static_cast<unsigned>(slots[i].words[0]) << i;
  return bits;
}
template <class T>
T shuffle_from(T x, int source) {
  emulator::Slot slot{};
  std::memcpy(slot.words, &x, sizeof x);
  const emulator::Slot* slots = emulator::exchange(slot);
  std::memcpy(&x, slots[source].words, sizeof x);
  return x;
}
template <class T>
T shuffle_xor(T x, int mask) {
  return shuffle_from(x, lane() ^ mask);
}
template <class T>
T shuffle_up(T x, int by) {
  return shuffle_from(x, lane() < by ? lane() : lane() - by);
}
inline int add_atomic(int* shared, int x) {
  const int before = *shared;
  *shared += x;
  return before;
}
inline int bit_count(uint32_t x) { return __builtin_popcount(x); }
inline float exp2_fast(float x) { return std::exp2(x); }

inline float to_float(float x) { return x; }
inline float to_float(Half x) { return emulator::half_to_float(x.bits); }
inline float to_float(BFloat16 x) { return emulator::bfloat_to_float(x.bits); }
template <class T>
T from_float(float x);
template <>
inline float from_float<float>(float x) {
  return x;
}
template <>
inline Half from_float<Half>(float x) {
  return {emulator::float_to_half(x)};
}
template <>
inline BFloat16 from_float<BFloat16>(float x) {
  return {emulator::float_to_bfloat(x)};
}
template <class T>
uint32_t pack2(float low, float high) {
  return from_float<T>(low).bits | static_cast<uint32_t>(from_float<T>(high).bits) << 16;
}
template <class T>
float low_half(uint32_t x) {
  return to_float(T{static_cast<uint16_t>(x)});
}
template <class T>
float high_half(uint32_t x) {
  return to_float(T{static_cast<uint16_t>(x >> 16)});
}

inline uint8_t read_only(const uint8_t* x) { return *x; }
inline uint32_t read_only(const uint32_t* x) { return *x; }
inline int read_only(const int* x) { return *x; }
inline void require_alignment(const void* x) {
  if (reinterpret_cast<uintptr_t>(x) % 16 == 0) return;
  std::fprintf(stderr, "emulator: an access to 16 bytes is not aligned\n");
  std::abort();
}
inline void read_only16(uint32_t (&r)[4], const void* x) {
  require_alignment(x);
  std::memcpy(r, x, 16);
}

inline void copy16_async(void* shared, const void* global) {
  require_alignment(shared);
  require_alignment(global);
  emulator::block().fibers[thread()].copies.emplace_back(shared, global);
}
inline void wait_for_copies() {
  auto& copies = emulator::block().fibers[thread()].copies;
  for (const auto& [shared, global] : copies) std::memcpy(shared, global, 16);
  copies.clear();
}

inline void load_matrices_as(uint32_t (&r)[4], const void* row, bool transposed) {
  const emulator::Slot* slots = emulator::exchange({{reinterpret_cast<uint64_t>(row)}});
  for (int m = 0; m < 4; ++m) {
    for (int i = 0; i < 2; ++i) {
      const int matrix_row = transposed ? lane() % 4 * 2 + i : lane() / 4;
      const int column = transposed ? lane() / 4 : lane() % 4 * 2 + i;
      const auto* address = reinterpret_cast<const uint16_t*>(slots[m * 8 + matrix_row].words[0]);
      r[m] = i == 0 ? address[column] : r[m] | static_cast<uint32_t>(address[column]) << 16;
    }
  }
}
inline void load_matrices(uint32_t (&r)[4], const void* row) { load_matrices_as(r, row, false); }
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) { load_matrices_as(r, row, true); }

template <class T>
void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const emulator::Slot* slots = emulator::exchange({{a[0], a[1], a[2], a[3], b0, b1}});
  for (int i = 0; i < 4; ++i) {
    const int row = lane() / 4 + i / 2 * 8;
    const int column = lane() % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const auto x = static_cast<uint32_t>(slots[row % 8 * 4 + k % 8 / 2].words[row / 8 + k / 8 * 2]);
      const auto y = static_cast<uint32_t>(slots[column * 4 + k % 8 / 2].words[4 + k / 8]);
      c[i] += k % 2 == 0 ? low_half<T>(x) * low_half<T>(y) : high_half<T>(x) * high_half<T>(y);
    }
  }
}

}  // namespace axform::cuda
