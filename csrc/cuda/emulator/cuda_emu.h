#pragma once

// CUDA C++ as the kernels use it, for a host compiler. Kernels see what follows under CUDA's own names.

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <source_location>
#include <type_traits>

#include "cuda/emulator/collectives.h"
#include "cuda/emulator/emulator.h"
#include "cuda/emulator/tensor_core.h"
#include "cuda/emulator/types.h"

#define threadIdx (emu::self->index)
#define blockIdx (emu::block->index)
#define blockDim (emu::block->dim)
#define gridDim (emu::block->grid)
constexpr int warpSize = emu::kLanes;

#define EMU_AT std::source_location at = std::source_location::current()

inline void __syncthreads(EMU_AT) { emu::barrier(at); }
inline void __syncwarp(unsigned mask = ~0u, EMU_AT) { emu::sync_warp(mask, at); }

inline unsigned __ballot_sync(unsigned mask, int predicate, EMU_AT) { return emu::ballot(mask, predicate != 0, at); }
inline int __any_sync(unsigned mask, int predicate, EMU_AT) { return emu::ballot(mask, predicate != 0, at) != 0; }
inline int __all_sync(unsigned mask, int predicate, EMU_AT) { return emu::ballot(mask, predicate == 0, at) == 0; }

// Segments of `width` lanes, a power of two, shuffle each for itself.
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, EMU_AT) {
  const int first = emu::self->lane & -width;
  return emu::shuffle(mask, value, first + (lane & (width - 1)), first, first + width, at);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMU_AT) {
  const int first = emu::self->lane & -width;
  return emu::shuffle(mask, value, emu::self->lane - static_cast<int>(delta), first, first + width, at);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMU_AT) {
  const int first = emu::self->lane & -width;
  return emu::shuffle(mask, value, emu::self->lane + static_cast<int>(delta), first, first + width, at);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMU_AT) {
  const int last = (emu::self->lane & -width) + width;
  return emu::shuffle(mask, value, emu::self->lane ^ lanes, 0, last, at);
}

#undef EMU_AT

// Arithmetic, as far as kernels use it: what is missing goes here.
inline int __popc(unsigned v) { return std::popcount(v); }
inline int __popcll(unsigned long long v) { return std::popcount(v); }
inline int __clz(int v) { return std::countl_zero(static_cast<unsigned>(v)); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }
inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline long min(long a, long b) { return a < b ? a : b; }
inline long max(long a, long b) { return a > b ? a : b; }

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T atomicAdd(T* p, std::type_identity_t<T> v) {
  return std::atomic_ref<T>(*p).fetch_add(v, std::memory_order_relaxed);
}
