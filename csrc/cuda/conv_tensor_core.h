#pragma once

#include "cuda/conv_args.h"
#include "cuda/epilogue.h"

// Binary convolution as an implicit matrix product on tensor cores. With p, q the bits of pixels and filters (1 =
// negative) and p = 0 where a tap lies outside the image:
//   and form: dot = table - 2 pop(p) + 4 pop(p & q),  table = sum of the filter inside + pad_value * sum outside
//   xor form: dot = table - 2 pop(p ^ q),             table = products + (pad_value - 1) * sum outside
//   bytes:    dot = sum of products of +-1, and pad_value outside

namespace bnn::cuda {

constexpr int kConvThreads = 128;  // 2 x 2 warps
constexpr int kTileFilters = 64;
constexpr int kStages = 3;
constexpr int kStageWords = 16;  // of a row: two steps of 8 words, 256 bits or 32 bytes each
constexpr int kQuarter = 4;      // words of a stage's row that one thread fills, in every 32nd row
constexpr int kRowStep = kConvThreads * kQuarter / kStageWords;
constexpr int kSumsStride = kTileFilters + 8;

// kRowTiles tiles of 16 pixels a warp
template <int kRowTiles>
struct ConvTile {
  static constexpr int kPixels = 32 * kRowTiles;
  static constexpr int kStageSize = (kPixels + kTileFilters) * kStageWords;
  static constexpr int kSharedBytes = kStages * kStageSize * 4;
  static_assert(kPixels * kSumsStride * 4 <= kSharedBytes, "the sums reuse the stages");
};

// The tensor core's instructions. Each is compiled for the architectures that have it in hardware.
#if defined(__CUDA_ARCH__)
#define BNN_COMPILED(from, to) (__CUDA_ARCH__ >= (from) && __CUDA_ARCH__ < (to))
#else
#define BNN_COMPILED(from, to) true
#endif

using Sums = int[4];

// Word of a stage where quarter q of a row lies: such that the same quarter of 8 rows, and all quarters of 2, fall on
// different banks.
__device__ __forceinline__ int quarter_at(int row, int q) { return row * kStageWords + (q ^ (row / 2 % 4)) * kQuarter; }

struct MmaXor {
  static constexpr bool kBytes = false, kXor = true, kCompiled = BNN_COMPILED(750, 800);
  static __device__ void add(Sums& d, const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_b1_xor(d, a, b); }
};

struct MmaAnd {
  static constexpr bool kBytes = false, kXor = false, kCompiled = BNN_COMPILED(800, 1000);
  static __device__ void add(Sums& d, const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_b1_and(d, a, b); }
};

struct MmaBytes {
  static constexpr bool kBytes = true, kXor = false, kCompiled = BNN_COMPILED(1000, 1 << 30);
  static __device__ void add(Sums& d, const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_s8(d, a, b); }
};

// Four bits -> four bytes 0 or 1
__device__ __forceinline__ uint32_t spread(uint32_t nibble) { return (nibble * 0x00204081u) & 0x01010101u; }

// 16 bits -> 16 signed bytes: +1, -1, or 0 where not valid
__device__ __forceinline__ uint4 to_bytes(uint32_t bits, uint32_t valid) {
  uint32_t bytes[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t negative = spread(bits >> (4 * i) & 15u), counts = spread(valid >> (4 * i) & 15u);
    bytes[i] = (0x01010101u + negative * 0xfeu) & counts * 0xffu;
  }
  return {bytes[0], bytes[1], bytes[2], bytes[3]};
}

// Fills the stages of a block's tile: kPixels output pixels and 64 filters of one group. A thread has the same quarter
// of every 32nd row in all of them. kCopyWords: words per asynchronous copy; 0: pixels go through registers, where bits
// are shifted or become bytes.
template <class Mma, int kRowTiles, int kCopyWords>
class TileLoader {
  using Tile = ConvTile<kRowTiles>;
  static constexpr int kRows = Tile::kPixels / kRowStep, kFilterRows = kTileFilters / kRowStep;

 public:
  __device__ TileLoader(const ConvArgs& a, uint32_t* stages)
      : a_(a), stages_(stages + quarter_at(threadIdx.x / kQuarter, threadIdx.x % kQuarter)) {
    const int64_t group_word = int64_t{blockIdx.z} * a.group_channels / 32;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      windows_[i] = window_of(a, blockIdx.x * Tile::kPixels + i * kRowStep + threadIdx.x / kQuarter);
      corners_[i] = (int64_t{windows_[i].image + windows_[i].top} * a.width + windows_[i].left) * a.pixel_words +
                    (kCopyWords > 0 ? group_word : 0);
    }
#pragma unroll
    for (int i = 0; i < kFilterRows; ++i) {
      const int row = blockIdx.y * kTileFilters + i * kRowStep + threadIdx.x / kQuarter;
      has_filter_[i] = row < a.group_filters;
      filters_[i] = (int64_t{blockIdx.z} * a.group_filters + row) * a.taps * a.weight_tap_words;
    }
  }

  __device__ int steps() const { return (a_.words() + kWords - 1) / kWords; }

  __device__ void load(int step) const {
    uint32_t* pixels = stages_ + step % kStages * Tile::kStageSize;
    uint32_t* filters = pixels + Tile::kPixels * kStageWords;
    if constexpr (Mma::kBytes) {
      load_bytes(step, pixels, filters);
    } else {
      constexpr int kCopy = kCopyWords > 0 ? kCopyWords : 1;
#pragma unroll
      for (int at = 0; at < kQuarter; at += kCopy) {
        const int word = step * kStageWords + quarter() + at;
        load_words<kCopy>(word < a_.words(), tap_word(a_, word), pixels + at, filters + at);
      }
    }
  }

 private:
  static constexpr int kWords = Mma::kBytes ? kStageWords / 8 : kStageWords;  // words of bits in a stage

  static __device__ int quarter() { return threadIdx.x % kQuarter * kQuarter; }

  __device__ int64_t tap_offset(const TapWord& t) const {
    return (int64_t{t.row} * a_.width + t.column) * a_.pixel_words;
  }
  __device__ int64_t filter_offset(const TapWord& t) const { return int64_t{t.tap} * a_.weight_tap_words + t.word; }

  template <int kCopy>
  __device__ void load_words(bool exists, const TapWord& t, uint32_t* pixels, uint32_t* filters) const {
    const int64_t offset = tap_offset(t), filter_word = filter_offset(t);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const bool read = exists && inside(a_, windows_[i], t);
      const uint32_t* pixel = a_.x + corners_[i] + offset;
      uint32_t* to = pixels + i * kRowStep * kStageWords;
      if constexpr (kCopyWords > 0) {
        copy_async<kCopy * 4>(to, pixel + t.word, read);
      } else {
        *to = read ? cut(a_, pixel, blockIdx.z, t) : 0;
      }
    }
#pragma unroll
    for (int i = 0; i < kFilterRows; ++i) {
      copy_async<kCopy * 4>(filters + i * kRowStep * kStageWords, a_.weight + filters_[i] + filter_word,
                            exists && has_filter_[i]);
    }
  }

  // Half a word of bits becomes a quarter of a row. Bytes that count for nothing are 0 in the pixels.
  __device__ void load_bytes(int step, uint32_t* pixels, uint32_t* filters) const {
    const int word = step * kWords + quarter() / 8, shift = quarter() % 8 * 4;
    const bool exists = word < a_.words();
    const TapWord t = tap_word(a_, word);
    const uint32_t valid = exists ? valid_bits(a_, t) >> shift : 0;
    const int64_t offset = tap_offset(t), filter_word = filter_offset(t);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const bool in = inside(a_, windows_[i], t);
      uint32_t bits = a_.pad_value < 0 ? ~0u : 0u;
      if (exists && in) bits = cut(a_, a_.x + corners_[i] + offset, blockIdx.z, t) >> shift;
      *reinterpret_cast<uint4*>(pixels + i * kRowStep * kStageWords) =
          to_bytes(bits, in || a_.pad_value != 0 ? valid : 0);
    }
#pragma unroll
    for (int i = 0; i < kFilterRows; ++i) {
      const uint32_t bits = exists && has_filter_[i] ? a_.weight[filters_[i] + filter_word] >> shift : 0;
      *reinterpret_cast<uint4*>(filters + i * kRowStep * kStageWords) = to_bytes(bits, ~0u);
    }
  }

  const ConvArgs& a_;
  uint32_t* stages_;
  Window windows_[kRows];
  int64_t corners_[kRows];  // words from x to the window's corner
  int64_t filters_[kFilterRows];
  bool has_filter_[kFilterRows];
};

// A warp's part of the products: kRowTiles x 4 tiles of 16 pixels x 8 filters, and the negative bits of its pixels.
template <class Mma, int kRowTiles>
class WarpTile {
  static constexpr int kPixels = ConvTile<kRowTiles>::kPixels;

 public:
  __device__ void multiply(const uint32_t* stage) {
    // The places of quarters repeat every 8 rows.
    const uint32_t* pixels = stage + warp_row() * kRowTiles * 16 * kStageWords;
    const uint32_t* filters = stage + (kPixels + warp_column() * 32) * kStageWords;
    const int filter = lane() / 16 * 8 + lane() % 8;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      uint32_t b[2][4];
#pragma unroll
      for (int j = 0; j < 2; ++j)
        load_matrices(b[j], filters + j * 16 * kStageWords + quarter_at(filter, part * 2 + lane() / 8 % 2));
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        uint32_t p[4];
        load_matrices(p, pixels + i * 16 * kStageWords + quarter_at(lane() % 16, part * 2 + lane() / 16));
        if (!Mma::kBytes && !Mma::kXor && part == warp_column()) {  // the two warps of a row share the counting
          negatives_[i][0] += __popc(p[0]) + __popc(p[2]);
          negatives_[i][1] += __popc(p[1]) + __popc(p[3]);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const uint32_t q[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
          Mma::add(sums_[i][j], p, q);
        }
      }
    }
  }

  // sums [pixel][kSumsStride], negatives [warp column][pixel]
  __device__ void share(uint32_t* sums, int (*negatives)[kPixels]) const {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = (warp_row() * kRowTiles + i) * 16 + half * 8 + lane() / 4;
        uint32_t* to = sums + row * kSumsStride + warp_column() * 32 + lane() % 4 * 2;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          *reinterpret_cast<uint2*>(to + j * 8) = {static_cast<uint32_t>(sums_[i][j][2 * half]),
                                                   static_cast<uint32_t>(sums_[i][j][2 * half + 1])};
        }
        int n = negatives_[i][half];  // the four lanes of a row have a part each
        n += __shfl_xor_sync(kAllLanes, n, 1);
        n += __shfl_xor_sync(kAllLanes, n, 2);
        if (lane() % 4 == 0) negatives[warp_column()][row] = n;
      }
    }
  }

 private:
  static __device__ int lane() { return threadIdx.x % kWarp; }
  static __device__ int warp_row() { return threadIdx.x / kWarp / 2; }
  static __device__ int warp_column() { return threadIdx.x / kWarp % 2; }

  Sums sums_[kRowTiles][4] = {};
  int negatives_[kRowTiles][2] = {};  // in rows g and g + 8 of a tile
};

template <class Mma, int kRowTiles, int kCopyWords>
__global__ void __launch_bounds__(kConvThreads) conv_tensor_core(ConvArgs a) {
  if constexpr (Mma::kCompiled) {
    using Tile = ConvTile<kRowTiles>;
    DYNAMIC_SHARED(uint32_t, shared);
    STATIC_SHARED(int, negatives, [2][Tile::kPixels]);
    const TileLoader<Mma, kRowTiles, kCopyWords> loader(a, shared);
    WarpTile<Mma, kRowTiles> tile;
    const int steps = loader.steps();
    for (int step = 0; step < kStages - 1; ++step) {
      if (step < steps) loader.load(step);
      copy_async_commit();
    }
    for (int step = 0; step < steps; ++step) {
      copy_async_wait<kStages - 2>();
      __syncthreads();
      if (step + kStages - 1 < steps) loader.load(step + kStages - 1);
      copy_async_commit();
      tile.multiply(shared + step % kStages * Tile::kStageSize);
    }
    __syncthreads();
    tile.share(shared, negatives);
    __syncthreads();

    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, first = blockIdx.x * Tile::kPixels;
    for (int half = 0; half < kTileFilters / kWarp; ++half) {
      const int column = half * kWarp + lane, k = blockIdx.y * kTileFilters + column;
      const bool active = k < a.group_filters;
      const int64_t channel = int64_t{blockIdx.z} * a.group_filters + k;
      const ChannelEpilogue epilogue(a.epilogue, channel, active);
      for (int row = warp; row < Tile::kPixels && first + row < a.pixels; row += kConvThreads / kWarp) {
        uint32_t dot = shared[row * kSumsStride + column];
        if (!Mma::kBytes && active) {
          const uint32_t start = a.table[int64_t{border_class(a, first + row)} * a.filters + channel];
          const uint32_t negative = negatives[0][row] + negatives[1][row];
          dot = Mma::kXor ? start - 2 * dot : start - 2 * negative + 4 * dot;
        }
        epilogue.store_row(first + row, static_cast<int>(dot));
      }
    }
  }
}

}  // namespace bnn::cuda
