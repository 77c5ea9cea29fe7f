#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "bnn/bits.h"

namespace bnn::ops {

// Below this many steps (elements, or words times filters) a thread costs more than it brings.
inline constexpr int64_t kGrain = 32768;

// f(begin, end) over [0, count), work = steps per item
template <class F>
void parallel(int64_t count, int64_t work, const F& f) {
  if (count <= 0) return;
  torch::stable::parallel_for(0, count, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, work)), f);
}

// The same in pieces that threads take as they finish: where cores differ in speed, equal shares wait for the slowest.
template <class F>
void parallel_pieces(int64_t count, int64_t piece, int64_t work, const F& f) {
  if (count <= kGrain / std::max<int64_t>(1, work)) return f(0, count);
  const int64_t pieces = ceil_div(count, piece);
  std::atomic<int64_t> taken{0};
  parallel(pieces, work * piece, [&](int64_t, int64_t) {
    for (int64_t i = taken++; i < pieces; i = taken++) f(i * piece, std::min(count, (i + 1) * piece));
  });
}

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kExactScratch = true;  // a sanitizer sees only what lies outside an allocation
#else
inline constexpr bool kExactScratch = false;
#endif

// Uninitialized words, aligned to a cache line, kept by the thread between calls. One buffer per slot.
enum class Slot { call, thread };

template <Slot slot>
uint64_t* scratch(int64_t words) {
  struct Free {
    void operator()(uint64_t* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<uint64_t, Free> buffer;
  thread_local int64_t capacity = 0;
  if (words > capacity || kExactScratch) {
    const int64_t rounded = std::max<int64_t>(8, (words + 7) / 8 * 8);
    capacity = 0;
    buffer.reset(static_cast<uint64_t*>(std::aligned_alloc(64, static_cast<size_t>(rounded) * sizeof(uint64_t))));
    if (!buffer) throw std::bad_alloc();
    capacity = rounded;
  }
  return buffer.get();
}

}  // namespace bnn::ops
