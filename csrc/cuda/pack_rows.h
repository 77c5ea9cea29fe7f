#pragma once

#include <cmath>

#include "bnn/bits.h"
#include "cuda/row_walk.h"

// Bits of rows [rows, C] by votes: lane = channel % 32, so a vote is half a word.

namespace bnn::cuda {

constexpr int kPackThreads = 256;
constexpr int kPackLoads = 8;  // that a lane has under way

enum class Residue { none, clip, polynomial };

struct PackRows {
  const void* x;       // [rows, C]
  const float* shift;  // [C] or null
  int64_t rows, channels;
  uint32_t* words;  // [rows, 2 L]: halves
  void* residue;    // clip: [rows, 2 L] halves, polynomial: [rows, C] bytes

  __host__ __device__ int64_t halves() const { return 2 * words_for(channels); }
  __host__ __device__ unsigned slabs() const {  // of at most 32 halves a row
    return static_cast<unsigned>(ceil_div(halves(), kWarp));
  }
};

// round(255 max(0, 1 - |v|))
__device__ __forceinline__ uint8_t quantized(float v) {
  const float d = 1.0f - fabsf(v);
  return static_cast<uint8_t>(rintf(255.0f * (d > 0.0f ? d : 0.0f)));
}

// A warp makes up to 32 halves, a lane each: as many rows of its slab as that holds. One read of x, one store of each.
// Loads are not predicated but kept inside the row: a lane without a channel reads the last one.
template <class T, Residue kResidue>
__global__ void __launch_bounds__(kPackThreads, 4) pack_rows(const PackRows p) {
  DYNAMIC_SHARED(float, shift);
  const unsigned slabs = p.slabs();
  const int64_t first = int64_t{blockIdx.x % slabs} * kWarp, left = p.channels - first * kWarp;
  const int halves = static_cast<int>(min(p.halves() - first, int64_t{kWarp}));  // of the slab
  const int channels = static_cast<int>(min(left, int64_t{kWarp * kWarp}));
  stage_shift(p.shift, first * kWarp, p.channels, halves * kWarp, shift);

  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = kPackThreads / kWarp;
  const int height = kWarp / halves;  // rows at a time
  const int64_t stride = int64_t{gridDim.x / slabs} * (warps * height);
  for (int64_t row = int64_t{blockIdx.x / slabs * warps + warp} * height; row < p.rows; row += stride) {
    const int votes = static_cast<int>(min(p.rows - row, int64_t{height})) * halves;
    const int64_t origin = row * p.channels + first * kWarp;
    const T* x = static_cast<const T*>(p.x) + origin;
    uint32_t negative = 0, inside = 0;
    int start = 0, half = 0;  // of the next vote: its row begins at x[start]
    for (int vote = 0; vote < votes; vote += kPackLoads) {
      T v[kPackLoads];
      float s[kPackLoads];
      int at[kPackLoads];  // place of the lane's channel, -1 for none
#pragma unroll
      for (int i = 0; i < kPackLoads; ++i) {
        const int c = half * kWarp + lane;
        v[i] = x[start + min(c, channels - 1)];
        s[i] = shift[c];  // NaN where there is no channel
        at[i] = vote + i < votes && c < channels ? start + c : -1;
        if (vote + i + 1 < votes && ++half == halves) {
          half = 0;
          start += static_cast<int>(p.channels);
        }
      }
#pragma unroll
      for (int i = 0; i < kPackLoads; ++i) {
        const float sum = widen(v[i]) + s[i];
        const uint32_t signs = __ballot_sync(kAllLanes, sum < 0.0f);
        if (lane == vote + i) negative = signs;
        if constexpr (kResidue == Residue::clip) {
          const uint32_t bits = __ballot_sync(kAllLanes, fabsf(sum) <= 1.0f);
          if (lane == vote + i) inside = bits;
        }
        if constexpr (kResidue == Residue::polynomial) {
          if (at[i] >= 0) static_cast<uint8_t*>(p.residue)[origin + at[i]] = quantized(sum);
        }
      }
    }
    if (lane >= votes) continue;
    const int64_t half_at = (row + lane / halves) * p.halves() + first + lane % halves;
    p.words[half_at] = negative;
    if constexpr (kResidue == Residue::clip) static_cast<uint32_t*>(p.residue)[half_at] = inside;
  }
}

template <Residue kResidue>
Status launch_pack(DType dtype, const PackRows& p, const Stream& stream) {
  if (p.rows == 0 || p.channels == 0) return 0;
  const int64_t height = kWarp / std::min<int64_t>(p.halves(), kWarp);
  const int64_t blocks = ceil_div(p.rows, kPackThreads / kWarp * height);
  const unsigned grid = p.slabs() * grid_size(blocks, stream);
  const size_t shared = sizeof(float) * static_cast<size_t>(std::min<int64_t>(p.halves(), kWarp) * kWarp);
  return with_type(dtype, [&](auto tag) {
    LAUNCH((pack_rows<decltype(tag), kResidue>), grid, kPackThreads, shared, stream, p);
    return launch_status();
  });
}

}  // namespace bnn::cuda
