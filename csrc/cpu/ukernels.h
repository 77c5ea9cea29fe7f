#pragma once

#include <cstdint>

#include "bnn/bits.h"
#include "bnn/epilogue.h"
#include "bnn/multires_pool2d.h"
#include "bnn/sign_ste.h"
#include "bnn/span.h"
#include "cpu/isa.h"

namespace bnn::cpu {

// Filters travel in panels of 16, interleaved by word: panel [words][16].
inline constexpr int kPanel = 16;

// Products of +-1 (and 0, outside the image) as bytes, on a matrix unit of tiles: `rows` pixels x 64 bytes times 64
// bytes x 16 filters. A filter tile holds four bytes of each of the 16 filters in a row of 64: [16][16][4].
inline constexpr int64_t kTileBytes = 1024;
inline constexpr int kTileRows = 16;  // at most

// Filters [filters] of [steps] words, `stride` words apart. Where the last panel lacks some it has the last one again,
// whose products nobody reads.
struct FilterWords {
  const uint64_t* words;
  int64_t stride;
  int64_t filters;
  int64_t steps;
  const uint64_t* valid;  // [steps] bits that count, bytes of others are 0; null: all

  int64_t panels() const { return ceil_div(filters, kPanel); }
  const uint64_t* row(int64_t k) const { return words + (k < filters ? k : filters - 1) * stride; }
};

// dot[(t * rows + i) * ld + k] = sum over steps s and bytes b of
//   bytes[starts[t] + i * pitch + offsets[s] + b] * panels[k / 16][s][b / 4][k % 16][b % 4]
struct TileProducts {
  const int8_t* bytes;
  const int64_t* starts;  // [tiles], at least one
  int64_t tiles;
  int rows;
  int64_t pitch;
  const int64_t* offsets;  // [steps]
  int64_t steps;
  int64_t count;   // of panels
  int8_t* panels;  // [count, steps, kTileBytes], or with filters scratch for one panel
  int32_t* dot;    // [tiles * rows, ld], 16 count columns are written
  int64_t ld;

  // Filters that are expanded on the way, while the unit works; or null.
  const FilterWords* filters = nullptr;
  // Step s lies in the scratch at tile (s & wrap), where `weave` steps share their tiles, 64 bytes in turns: the
  // processor takes a load for one of the bytes just written where their addresses agree in the last 12 bits, and
  // pixels `weave` times 64 bytes apart never do so with the next steps' filters.
  int64_t wrap = -1;
  int64_t weave = 1;  // a power of two, kRing at most
};
inline constexpr int64_t kRing = 8;       // wrap to fewer steps than a panel has, for kRingTiles tiles at most: each
inline constexpr int64_t kRingTiles = 4;  // step's filters are used at once

// One function type per microkernel. Rows have C channels, channels innermost, and are contiguous; L = ceil(C / 64).
namespace ukernel {

// dot[p * ld + k] = base[p][column + k] - 2 popcount(a[p] ^ panel[:, k]); a [pixels, words], always 16 columns k.
using bgemm = void(const uint64_t* a, int64_t pixels, int64_t words, const uint64_t* panel, const int32_t* const* base,
                   int64_t column, int32_t* dot, int64_t ld);

// dot[k] = bits - 2 popcount(a ^ w[k]); a [words], w [filters, words]
using bgemv = void(const uint64_t* a, const uint64_t* w, int64_t words, int64_t filters, int32_t bits, int32_t* dot);

// 64 channels of bit-sliced mismatch counters: dot[c] = taps - 2 sum_b 2^b bit c of planes[b]; writes dot[0..63].
using counters_to_dot = void(const uint64_t* planes, int count, int32_t taps, int32_t* dot);

using bitpack = void(ConstSpan x, const float* shift, int64_t rows, int64_t channels, uint64_t* words);
using bitunpack = void(const uint64_t* words, int64_t rows, int64_t channels, Span y);
using sign_ste = void(ConstSpan x, const float* shift, int64_t rows, int64_t channels, Span y);
using sign_ste_backward = void(ConstSpan grad, ConstSpan x, const float* shift, Surrogate surrogate, int64_t rows,
                               int64_t channels, Span grad_x);
using ste_residue = void(ConstSpan x, const float* shift, Surrogate surrogate, int64_t rows, int64_t channels,
                         uint64_t* words, void* residue);
using ste_residue_backward = void(ConstSpan grad, const void* residue, Surrogate surrogate, int64_t rows,
                                  int64_t channels, Span grad_x);

// Rows [row, row + rows) of the epilogue from dot [rows, ld]
using epilogue_scaled = void(const Epilogue& e, const int32_t* dot, int64_t ld, int64_t row, int64_t rows);
using epilogue_fused = void(const Epilogue& e, const int32_t* dot, int64_t ld, int64_t row, int64_t rows);

// sum[i] += x[i]
using accumulate = void(ConstSpan x, int64_t n, float* sum);

// y[i] = x[i] in the dtype of y
using round_store = void(const float* x, int64_t n, Span y);

// y[j * stride + e] = mean over bin j of row[position][e], where row holds sums over bins.height rows; row [W, width]
using average_bins = void(const PoolBins& bins, const float* row, int64_t width, Span y, int64_t stride);

// row[position][e] += y[j * stride + e] / area for every bin j that covers the position
using spread_bins = void(const PoolBins& bins, ConstSpan y, int64_t stride, int64_t width, float* row);

// Tiles get this many rows, for tile_products in this thread; 0 gives the unit back.
using tile_rows = void(int rows);

// bytes [pixels, channels] of +-1 from pixels `step` words apart
using expand_pixels = void(const uint64_t* words, int64_t step, int64_t pixels, int64_t channels, int8_t* bytes);

using expand_filters = void(const FilterWords& f, int8_t* tiles);

using tile_products = void(const TileProducts& p);

}  // namespace ukernel

#define BNN_UKERNEL(isa, op) \
  namespace isa {            \
  ukernel::op op;            \
  }
#include "cpu/ukernels.inc"
#undef BNN_UKERNEL

struct Ukernels {
  ukernel::bgemm* bgemm;
  ukernel::bgemv* bgemv;
  ukernel::counters_to_dot* counters_to_dot;
  ukernel::bitpack* bitpack;
  ukernel::bitunpack* bitunpack;
  ukernel::sign_ste* sign_ste;
  ukernel::sign_ste_backward* sign_ste_backward;
  ukernel::ste_residue* ste_residue;
  ukernel::ste_residue_backward* ste_residue_backward;
  ukernel::epilogue_scaled* epilogue_scaled;
  ukernel::epilogue_fused* epilogue_fused;
  ukernel::accumulate* accumulate;
  ukernel::round_store* round_store;
  ukernel::average_bins* average_bins;
  ukernel::spread_bins* spread_bins;
  ukernel::tile_rows* tile_rows;
  ukernel::expand_pixels* expand_pixels;
  ukernel::expand_filters* expand_filters;
  ukernel::tile_products* tile_products;
};

const Ukernels& ukernels_of(Isa isa);

inline const Ukernels& ukernels() { return ukernels_of(isa_current()); }

}  // namespace bnn::cpu
