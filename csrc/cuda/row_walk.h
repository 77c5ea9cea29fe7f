#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>

#include "bnn/bits.h"
#include "cuda/device.h"
#include "cuda/launch.h"

// Element-wise kernels over rows [rows, C], channels innermost.

namespace bnn::cuda {

// N neighbours, read and written in one access: their address is a multiple of their size.
template <class T, int N>
struct Vec {
  using Raw = Bytes<sizeof(T) * N>;

  T v[N];

  static __device__ Vec load(const T* p) { return std::bit_cast<Vec>(*reinterpret_cast<const Raw*>(p)); }
  __device__ void store(T* p) const { *reinterpret_cast<Raw*>(p) = std::bit_cast<Raw>(*this); }
};

// N bits of a row of words, from channel c on, a multiple of N. Words are little-endian: channel c is in byte c / 8.
template <int N>
__device__ __forceinline__ uint32_t bits_at(const uint64_t* row, int64_t c) {
  using Piece = Bytes<(N + 7) / 8>;
  return static_cast<uint32_t>(reinterpret_cast<const Piece*>(row)[c / (8 * sizeof(Piece))]) >>
         (c % (8 * sizeof(Piece)));
}

constexpr int kAccess = 16;  // bytes of the widest access

// to[i] = shift[first + i] for a block's n channels, 0 without shift, NaN beyond `channels`; ends with a barrier.
__device__ __forceinline__ void stage_shift(const float* shift, int64_t first, int64_t channels, int n, float* to) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    const float value = shift && first + i < channels ? shift[first + i] : 0.0f;
    to[i] = first + i < channels ? value : std::numeric_limits<float>::quiet_NaN();
  }
  __syncthreads();
}

constexpr int kWalkThreads = 256;
constexpr int kWalkRows = 4;  // rows that a thread has under way

// A block holds `lanes` vectors of channels of `height` neighbouring rows, a vector a thread, and walks down the rows.
// More channels than that are several slabs.
struct RowWalk {
  int64_t rows, channels;
  unsigned slabs;
  int lanes, height;

  RowWalk(int64_t rows, int64_t channels, int vector) : rows(rows), channels(channels) {
    const int64_t vectors = ceil_div(channels, vector);
    slabs = static_cast<unsigned>(ceil_div(vectors, kWalkThreads));
    lanes = static_cast<int>(ceil_div(vectors, slabs));
    height = kWalkThreads / lanes;
  }
};

// Op::kVector channels at a time: Op::In read(row * channels + c, row, c), then write(the same, In, shift of c ...).
template <class Op>
__global__ void __launch_bounds__(kWalkThreads) walk_rows(const Op op, const RowWalk walk) {
  constexpr int N = Op::kVector;
  DYNAMIC_SHARED(float, slab_shift);
  const int slab_channels = walk.lanes * N;
  const int64_t first = int64_t{blockIdx.x % walk.slabs} * slab_channels;
  if constexpr (Op::kShifted) {
    stage_shift(op.shift, first, walk.channels, slab_channels, slab_shift);
  }
  const int lane = threadIdx.x % walk.lanes, line = threadIdx.x / walk.lanes;
  const int64_t c = first + lane * N;
  if (line >= walk.height || c >= walk.channels) return;
  float shift[N] = {};
  if constexpr (Op::kShifted) {
    for (int j = 0; j < N; ++j) shift[j] = slab_shift[lane * N + j];
  }
  const int64_t block_rows = walk.height * kWalkRows, stride = gridDim.x / walk.slabs * block_rows;
  for (int64_t row = blockIdx.x / walk.slabs * block_rows + line; row < walk.rows; row += stride) {
    typename Op::In in[kWalkRows];
#pragma unroll
    for (int r = 0; r < kWalkRows; ++r) {
      const int64_t at = row + r * walk.height;
      if (at < walk.rows) in[r] = op.read(at * walk.channels + c, at, c);
    }
#pragma unroll
    for (int r = 0; r < kWalkRows; ++r) {
      const int64_t at = row + r * walk.height;
      if (at < walk.rows) op.write(at * walk.channels + c, in[r], shift);
    }
  }
}

template <class Op>
Status launch_walk(const Op& op, int64_t rows, int64_t channels, const Stream& stream) {
  if (rows == 0 || channels == 0) return 0;
  const RowWalk walk(rows, channels, Op::kVector);
  const int64_t blocks = ceil_div(rows, int64_t{walk.height} * kWalkRows);
  const size_t shared = Op::kShifted ? sizeof(float) * static_cast<size_t>(walk.lanes * Op::kVector) : 0;
  const unsigned grid = walk.slabs * grid_size(blocks, stream);
  LAUNCH(walk_rows<Op>, grid, kWalkThreads, shared, stream, op, walk);
  return launch_status();
}

}  // namespace bnn::cuda
