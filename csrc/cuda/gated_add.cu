#include <limits>

#include "bnn/gated_add.h"
#include "cuda/epilogue.h"
#include "cuda/launch.h"

namespace bnn::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

// How a block finds its work: a slab of at most 32 halves of words, and a part of an image's rows.
struct Blocks {
  unsigned slabs, parts;
};

// A warp makes up to 32 halves, a lane each: as many rows of its slab as that holds, so that words are written side by
// side.
__global__ void __launch_bounds__(kThreads) gated_rows(const GatedAdd p, const Blocks blocks) {
  DYNAMIC_SHARED(float, factors);
  const Epilogue& e = p.epilogue;
  const int64_t first = int64_t{blockIdx.x % blocks.slabs} * kWarp, total = 2 * words_for(e.channels);
  const int64_t part = blockIdx.x / blocks.slabs % blocks.parts, image = blockIdx.x / blocks.slabs / blocks.parts;
  const int halves = static_cast<int>(min(total - first, int64_t{kWarp}));
  const int channels = static_cast<int>(min(e.channels - first * kWarp, int64_t{kWarp * kWarp}));
  float *bias = factors + halves * kWarp, *next_shift = bias + halves * kWarp;
  for (int c = threadIdx.x; c < halves * kWarp; c += kThreads) {
    const int64_t k = first * kWarp + c;
    next_shift[c] = std::numeric_limits<float>::quiet_NaN();  // no channel has no bit
    if (c >= channels) continue;
    factors[c] = load(p.gate, image * e.channels + k) * e.scale[k];
    bias[c] = e.bias[k];
    next_shift[c] = e.next_shift ? e.next_shift[k] : 0.0f;
  }
  __syncthreads();

  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, height = kWarp / halves;
  for (int64_t row = (part * kWarps + warp) * height; row < p.pixels; row += int64_t{blocks.parts} * kWarps * height) {
    const int votes = static_cast<int>(min(p.pixels - row, int64_t{height})) * halves;
    const int64_t origin = image * p.pixels + row;
    int64_t start = origin * e.channels + first * kWarp;
    uint32_t negative = 0;
    int half = 0;
#pragma unroll 4
    for (int vote = 0; vote < votes; ++vote) {
      const int c = half * kWarp + lane;
      float t = 0.0f;
      if (c < channels) {
        const float residual = load(e.residual, start + c);
        t = factors[c] * load(p.x, start + c);
        if (p.multiply) t *= residual;
        t = t + bias[c] + residual;
        if (e.stream) store(e.stream, start + c, t);
      }
      const uint32_t bits = __ballot_sync(kAllLanes, t + next_shift[c] < 0.0f);
      if (lane == vote) negative = bits;
      if (++half == halves) {
        half = 0;
        start += e.channels;
      }
    }
    if (e.words == nullptr || lane >= votes) continue;
    reinterpret_cast<uint32_t*>(e.words)[(origin + lane / halves) * total + first + lane % halves] = negative;
  }
}

}  // namespace

Status gated_add(const GatedAdd& p, int64_t rows, const Stream& stream) {
  if (rows == 0) return 0;
  const int64_t total = channel_blocks(p.epilogue.channels), halves = std::min<int64_t>(total, kWarp);
  const int64_t height = kWarp / halves, images = rows / p.pixels;
  const int64_t parts = std::max<int64_t>(1, grid_size(ceil_div(p.pixels, kWarps * height) * images, stream) / images);
  const Blocks blocks{static_cast<unsigned>(ceil_div(total, kWarp)), static_cast<unsigned>(parts)};
  const size_t shared = 3 * sizeof(float) * static_cast<size_t>(halves * kWarp);
  LAUNCH(gated_rows, static_cast<unsigned>(images * parts) * blocks.slabs, kThreads, shared, stream, p, blocks);
  return launch_status();
}

}  // namespace bnn::cuda
