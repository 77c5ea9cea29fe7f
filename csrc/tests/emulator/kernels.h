#pragma once

#include "cuda/device.h"

// Small kernels for the tests of the emulator. Where a template parameter says so they have a bug.

namespace bnn::cuda {
namespace {

constexpr int kThreads = 64;

template <bool kRowTooMany>
__global__ void negate_rows(const int* x, int* y, int rows, int columns) {
  const int row = static_cast<int>(blockIdx.x), column = static_cast<int>(threadIdx.x);
  if (column >= columns || row >= rows + kRowTooMany) return;
  y[row * columns + column] = row < rows ? -x[row * columns + column] : 0;
}

// y = x reversed within each block of kThreads, through shared memory
template <bool kSharedTooSmall>
__global__ void reverse_dynamic(const int* x, int* y) {
  DYNAMIC_SHARED(int, tile);  // kThreads, or one less
  const int first = static_cast<int>(blockIdx.x) * kThreads, i = static_cast<int>(threadIdx.x);
  tile[i] = x[first + i];
  __syncthreads();
  y[first + i] = tile[kThreads - 1 - i];
}

template <bool kOneBeyond, bool kBarrier = true>
__global__ void reverse_static(const int* x, int* y) {
  STATIC_SHARED(int, tile, [kThreads]);
  const int first = static_cast<int>(blockIdx.x) * kThreads, i = static_cast<int>(threadIdx.x);
  int* at = tile + i + kOneBeyond;
  *at = x[first + i];
  if (kBarrier) __syncthreads();
  y[first + i] = tile[kThreads - 1 - i];
}

// y = x with neighbours exchanged, warp by warp
template <bool kSync>
__global__ void swap_neighbours(const int* x, int* y) {
  STATIC_SHARED(int, tile, [kThreads]);
  const int first = static_cast<int>(blockIdx.x) * kThreads, i = static_cast<int>(threadIdx.x);
  tile[i] = x[first + i];
  if (kSync) __syncwarp();
  y[first + i] = tile[i ^ 1];
}

// y = the sum of each column of `tiles` tiles, each thread summing another column than the one it copies. Double
// buffered.
template <bool kWait, bool kBarrierBeforeRefill>
__global__ void sum_tiles(const int* x, int* y, int tiles) {
  STATIC_SHARED(int, buffer, [2][kThreads]);
  const int i = static_cast<int>(threadIdx.x), column = kThreads - 1 - i;
  copy_async<4>(&buffer[0][i], x + i);
  copy_async_commit();
  int sum = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    if (tile + 1 < tiles) copy_async<4>(&buffer[(tile + 1) % 2][i], x + (tile + 1) * kThreads + i);
    copy_async_commit();
    if (kWait) copy_async_wait<1>();
    __syncthreads();
    sum += buffer[tile % 2][column];
    if (kBarrierBeforeRefill) __syncthreads();
  }
  y[column] = sum;
}

// y = 1 where x > 0, each half of a warp by itself
template <uint32_t kMask>
__global__ void vote_of_half(const int* x, int* y) {
  const int i = static_cast<int>(threadIdx.x);
  if (i % kWarp < 16) {
    y[i] = __ballot_sync(kMask, x[i] > 0) >> i % kWarp & 1;
  } else if (kMask != kAllLanes) {
    y[i] = __ballot_sync(~kMask, x[i] > 0) >> i % kWarp & 1;
  }
}

// The upper half of each warp reads lane kFrom.
template <int kFrom>
__global__ void read_lane(const int* x, int* y) {
  const int i = static_cast<int>(threadIdx.x);
  if (i % kWarp >= 16) y[i] = __shfl_sync(0xffff0000u, x[i], kFrom);
}

template <bool kReturnEarly>
__global__ void reverse_part(const int* x, int* y, int n) {
  STATIC_SHARED(int, tile, [kThreads]);
  const int i = static_cast<int>(threadIdx.x);
  if (kReturnEarly && i >= n) return;
  if (i < n) tile[i] = x[i];
  __syncthreads();
  if (i < n) y[i] = tile[n - 1 - i];
}

template <bool kTwoBarriers>
__global__ void add_first(const int* x, int* y) {
  STATIC_SHARED(int, first, );
  const int i = static_cast<int>(threadIdx.x);
  if (i == 0) {
    first = x[0];
    if (kTwoBarriers) __syncthreads();
  } else {
    if (kTwoBarriers) __syncthreads();
  }
  if (!kTwoBarriers) __syncthreads();
  y[i] = x[i] + first;
}

enum class Mma { kAnd, kXor, kBytes };

// One mma; every lane's registers lie together: 4 of a, 2 of b, 4 of d.
template <Mma kKind>
__global__ void one_mma(const uint32_t* a_registers, const uint32_t* b_registers, int* d_registers) {
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t a[4], b[2];
  int d[4];
  for (int i = 0; i < 4; ++i) a[i] = a_registers[4 * lane + i];
  for (int i = 0; i < 2; ++i) b[i] = b_registers[2 * lane + i];
  for (int i = 0; i < 4; ++i) d[i] = d_registers[4 * lane + i];
  if constexpr (kKind == Mma::kAnd) mma_b1_and(d, a, b);
  if constexpr (kKind == Mma::kXor) mma_b1_xor(d, a, b);
  if constexpr (kKind == Mma::kBytes) mma_s8(d, a, b);
  for (int i = 0; i < 4; ++i) d_registers[4 * lane + i] = d[i];
}

// Four matrices out of 32 rows of `pitch` bytes; lane l names row order[l].
template <bool kSync>
__global__ void load_rows(const uint32_t* rows, const int* order, uint32_t* registers, int pitch) {
  DYNAMIC_SHARED(uint32_t, tile);
  const int lane = static_cast<int>(threadIdx.x), words = pitch / 4;
  for (int i = lane; i < kWarp * words; i += kWarp) tile[i] = rows[i];
  if (kSync) __syncwarp();
  uint32_t r[4];
  load_matrices(r, tile + order[lane] * words);
  for (int i = 0; i < 4; ++i) registers[4 * lane + i] = r[i];
}

// Five results a thread: the four shuffles of x in segments of `width` lanes, and whether any and all of x are odd.
__global__ void collectives(const int* x, int* y, int width) {
  const int i = static_cast<int>(threadIdx.x);
  y[5 * i] = __shfl_sync(kAllLanes, x[i], 3, width);
  y[5 * i + 1] = __shfl_up_sync(kAllLanes, x[i], 3, width);
  y[5 * i + 2] = __shfl_down_sync(kAllLanes, x[i], 3, width);
  y[5 * i + 3] = __shfl_xor_sync(kAllLanes, x[i], 5, width);
  y[5 * i + 4] = 2 * __all_sync(kAllLanes, x[i] % 2) + __any_sync(kAllLanes, x[i] % 2);
}

}  // namespace
}  // namespace bnn::cuda
