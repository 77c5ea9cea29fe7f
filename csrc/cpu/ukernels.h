#pragma once

#include <cstdint>
#include <cstring>

#include "bnn/bits.h"
#include "bnn/epilogue.h"
#include "bnn/gated_add.h"
#include "bnn/multires_pool2d.h"
#include "bnn/sign_ste.h"
#include "bnn/span.h"
#include "cpu/isa.h"

namespace bnn::cpu {

// Filters travel in panels of 16, interleaved by word: panel [words][16].
inline constexpr int kPanel = 16;

// Products of bits as bytes, on a matrix unit of tiles: `rows` pixels x 64 bytes times 64 bytes x 16 columns of
// filters. A column holds two filters, v + 241 v' for their bits v and v': a group of steps, in which no filter has
// more than 227 ones, sums to s + 241 s' < 2^16 with s < 241, from which s' = floor(272 sum / 2^16) (test_ukernels
// tries all pairs).
inline constexpr int64_t kTileBytes = 1024;
inline constexpr int kTileRows = 16;  // at most
inline constexpr int kTileFilters = 32;
inline constexpr int kSecond = 241;   // what a one of the second filter counts
inline constexpr int kInverse = 272;  // 2^16 / 241, rounded up
inline constexpr int kMostOnes = 227;

// Column and half of a filter in its tile: as int16 sums leave it without a permutation across lanes.
constexpr int tile_column(int filter) { return filter / 8 * 4 + filter % 4; }
constexpr bool second_in_column(int filter) { return filter % 8 >= 4; }

// Up to 64 filters of [steps] words, `stride` words apart. What is missing to whole tiles is the last one again, whose
// products nobody reads.
struct FilterWords {
  const uint64_t* words;
  int64_t stride;
  int64_t filters;
  int64_t steps;
  const int64_t* place;   // [steps] the step that a word is used in
  const uint64_t* valid;  // [steps] bits of words that count; null: all
  int64_t tap_words;      // words of a tap, whose ones are counted; 0: they aren't

  const uint64_t* row(int64_t k) const { return words + (k < filters ? k : filters - 1) * stride; }
};

constexpr int64_t tiles_of(int64_t filters) { return filters > kTileFilters ? 2 : 1; }

// A panel of up to 64 filters in the form that is expanded to tiles fast: [steps][tiles_of(filters)][kCodeWords], where
// a tile's 256 bytes are [16 rows / 4][16 columns] of 32 bits: bit code_bit(...) + 4 r of a column for row 4 i + r.
inline constexpr int64_t kCodeWords = kTileFilters;
inline constexpr int64_t kMostSteps = 8;
constexpr int code_bit(bool second, int channel) { return channel / 2 * 16 + second * 2 + channel % 2; }

struct PackedPanel {
  uint64_t* codes;
  uint8_t* groups;  // [steps] 1 where a group begins: as long as may be, of kMostSteps at most
  int16_t* ones;    // [taps, 64] of each filter
};

// Where the group of steps ends that begins with step s
constexpr int64_t group_end(const uint8_t* groups, int64_t s, int64_t steps) {
  const int64_t most = steps - s < kMostSteps ? steps : s + kMostSteps;
  do ++s;
  while (s < most && groups[s] == 0);
  return s;
}

// What products need of a panel. Where words alone are asked for and limited is 1, base says what 4 sums - 2 ones of a
// filter have to be below for a bit of 1, or of 0 where its bit of falling is 1.
struct TilePanel {
  const uint64_t* codes;
  const uint8_t* groups;
  const int16_t* base;  // [classes, 64]
  const uint8_t* limited;
  const uint64_t* falling;
};

// For tiles t, their rows i and filters k
//   dot = base[row_base[at] + k % 64] + row_add[at] + 4 sums modulo 2^16 where at = starts[t] + i:
// sums over steps s and bytes b of bytes[at * pitch + offsets[s] + b] times bit b of the word of filter k in step s.
// They leave a few tiles and a panel at a time: finished(context, panel, t, n) finds those of tiles [t, t + n) in
// dot [n * rows, 64]. Limited panels write words themselves.
struct TileProducts {
  const uint8_t* bytes;   // of pixels
  const int64_t* starts;  // [tiles]
  int64_t tiles;          // at most kJobTiles, or as many as you like where all steps are two groups or one
  int rows;
  int64_t pitch;
  const int64_t* offsets;   // [steps]
  const int32_t* row_base;  // class * 64
  const int32_t* row_add;   // an int16 and that again, so that it is broadcast as 32 bits
  const int32_t* row_word;  // the first of a row's 32 bits in words; negative: don't write the row
  int64_t steps;
  int64_t filters;
  TilePanel first;      // panel
  int64_t packed_step;  // bytes from panel to panel of codes and groups
  int64_t panel_step;   // of the others
  int16_t* dot;         // [kTilesTogether * kTileRows, 64]
  void (*finished)(void* context, int64_t panel, int64_t tile, int64_t count);
  void* context;
  uint32_t* words;

  TilePanel panel(int64_t i) const {
    return {first.codes + i * packed_step / 8, first.groups + i * packed_step, first.base + i * panel_step / 2,
            first.limited + i * panel_step, first.falling + i * panel_step / 8};
  }
};
inline constexpr int64_t kJobTiles = 32;
inline constexpr int64_t kTilesTogether = 4;
inline constexpr int64_t kTogether = 32;  // rows of count_window

// Pixels against a panel. The window of pixel p is `runs` runs of `run` words, from windows[p] on
// `step` words apart; they meet runs of the panel that are panel_step words of 16 apart. With mismatches[k] = popcount
// of both, by exclusive or, and its row r of the output, which is p and start[k] = base[row_base[p] + k], or, where
// rows are given, rows[p] and start[k] = base[k]
//   without bits: dot[r * ld + k] = start[k] - 2 mismatches[k]
//   with bits: bit k of the two bytes at bits + r * bits_step = mismatches[k] > start[k], inverted by that of falling
struct PanelProducts {
  const uint64_t* const* windows;  // [pixels]
  const int32_t* rows;             // [pixels] or null
  int64_t pixels, runs, run, step;
  const uint64_t* panel;
  int64_t panel_step;
  int64_t next_panel;  // words to the panel that is wanted next: a hint
  const int32_t* base;
  const int32_t* row_base;  // [pixels] or null
  int32_t* dot;
  int64_t ld;
  uint8_t* bits;
  int64_t bits_step;
  uint16_t falling;
};

// Depthwise products of neighbouring output pixels, 64 channels a word at once: m [words, 64] counts mismatches over
// taps.
//   without limits: bit c of planes[b * words + i] = bit b of m[i][c], b in 0 .. plane_count(taps + outside) - 1
//   with limits: bit c of to[i] = (2 m[i][c] + outside >= limit) ^ flip
// A tap's words are at x + at[t], or all `fill` where that is kOutside; its filters at slices + filters[t]. Filters,
// limits and flips repeat after `period` words: a multiple of 8, or at least `words`.
struct DepthwiseProducts {
  const int64_t* at;       // [taps]
  const int64_t* filters;  // [taps]
  int64_t taps, outside;   // outside: taps that count 0
  const uint64_t* x;
  const uint64_t* slices;
  uint64_t fill;
  int64_t period, words;
  const uint64_t* limits;  // [kLimitBits, period] bit by bit, at most 2 (taps + outside), or kNever; or null
  const uint64_t* flips;   // [period]
  uint64_t* to;
  uint64_t* planes;
};
inline constexpr int64_t kOutside = INT64_MIN;
inline constexpr int kLimitBits = 8;
inline constexpr int64_t kNever = 1 << (kLimitBits - 1);
inline constexpr int64_t kMostLimitedTaps = kNever / 2 - 1;
constexpr int plane_count(int64_t taps) { return taps < 16 ? 4 : taps <= kMostLimitedTaps ? kLimitBits - 2 : 31; }

// Bytes of an image against int8 filters in panels of 16. The window of pixel p is `runs` runs of 4 run bytes, run r
// from rows[r] + p * step on; a panel is [1 + runs * run][16][4] bytes: four weights of each filter side by side, and
// in front of them, as int32 [16], what its sums begin with.
//   dot[p * ld + k] = start[k] + sum of bytes (0 to 255) times weights, modulo 2^32, k in 0 .. 16 count - 1
struct ByteProducts {
  const uint8_t* const* rows;  // [runs]
  int64_t pixels, step, runs, run;
  const int8_t* panels;  // [count]
  int64_t count;
  int32_t* dot;
  int64_t ld;
};
inline constexpr int64_t kPanelBytes = kPanel * 4;

inline int32_t load_four(const uint8_t* bytes) {
  int32_t four;
  std::memcpy(&four, bytes, sizeof(four));
  return four;
}

// One function type per microkernel. Rows have C channels, channels innermost, and are contiguous; L = ceil(C / 64).
namespace ukernel {

using bgemm = void(const PanelProducts& q);

// dot[k] = bits - 2 popcount(a ^ w[k]); a [words], w [filters, words]
using bgemv = void(const uint64_t* a, const uint64_t* w, int64_t words, int64_t filters, int32_t bits, int32_t* dot);

// 64 channels of bit-sliced mismatch counters: dot[c] = taps - 2 sum_b 2^b bit c of planes[b * step]; writes
// dot[0..63].
using counters_to_dot = void(const uint64_t* planes, int64_t step, int count, int32_t taps, int32_t* dot);

using depthwise_products = void(const DepthwiseProducts& q);

using bitpack = void(ConstSpan x, const float* shift, int64_t rows, int64_t channels, uint64_t* words);
using bitunpack = void(const uint64_t* words, int64_t rows, int64_t channels, Span y);
using sign_ste = void(ConstSpan x, const float* shift, int64_t rows, int64_t channels, Span y);
using sign_ste_backward = void(ConstSpan grad, ConstSpan x, const float* shift, Surrogate surrogate, int64_t rows,
                               int64_t channels, Span grad_x);
using ste_residue = void(ConstSpan x, const float* shift, Surrogate surrogate, int64_t rows, int64_t channels,
                         uint64_t* words, void* residue);
using ste_residue_backward = void(ConstSpan grad, const void* residue, Surrogate surrogate, int64_t rows,
                                  int64_t channels, Span grad_x);

using epilogue_scaled = void(const Epilogue& e, const Dots& dots, const OutputPart& part);
using epilogue_fused = void(const Epilogue& e, const Dots& dots, const OutputPart& part);

// Where words alone are asked for: limits [64] of channels from c on such that bit = (dot < limit) ^ bit of falling,
// anything with a falling of 0 past the last one. False if there are none.
using sign_limits = bool(const Epilogue& e, int64_t c, int32_t* limits, uint64_t* falling);

// Rows [row, row + rows), which are an image's; factors: scratch [channels]
using gated_rows = void(const GatedAdd& p, int64_t image, int64_t row, int64_t rows, float* factors);

// sum[i] += x[i] + x[step + i] + ... + x[(count - 1) step + i]
using accumulate = void(ConstSpan x, int64_t count, int64_t step, int64_t n, float* sum);

// y[i] = x[i] in the dtype of y
using round_store = void(const float* x, int64_t n, Span y);

// y[j * stride + e] = mean over bin j of row[position][e], where row holds sums over bins.height rows; row [W, width]
using average_bins = void(const PoolBins& bins, const float* row, int64_t width, Span y, int64_t stride);

// row[position][e] += y[j * stride + e] / area for every bin j that covers the position
using spread_bins = void(const PoolBins& bins, ConstSpan y, int64_t stride, int64_t width, float* row);

// Tiles get this many rows, for tile_products and byte_products in this thread; 0 gives the unit back.
using tile_rows = void(int rows);

// bytes [pixels, channels], the bits of pixels `step` words apart; ones[i]: how many of pixel i's are set
using expand_pixels = void(const uint64_t* words, int64_t step, int64_t pixels, int64_t channels, uint8_t* bytes,
                           int16_t* ones);

// row_add[i] = -2 sum over taps t of ones[i + taps[t]], see TileProducts; reads and writes up to kTogether - 1 more.
using count_window = void(const int16_t* ones, const int64_t* taps, int64_t count, int64_t rows, int32_t* row_add);

// One panel; its ones only where tap_words > 0. counts: scratch [steps, 64]
using pack_filters = void(const FilterWords& f, const PackedPanel& panel, uint8_t* counts);

using tile_products = void(const TileProducts& p);

// Largest |x[i]|, 0 without any; infinite where one is NaN
using max_abs = float(ConstSpan x, int64_t n);

// bytes[i] = 128 + x[i] * inverse, rounded to nearest even; 128 where the product is NaN or beyond +-127.5
using to_bytes = void(ConstSpan x, int64_t n, float inverse, uint8_t* bytes);

// After tile_rows(min(kTileRows, q.pixels))
using byte_products = void(const ByteProducts& q);

// to[g * n + i] = max over j of rows[j][g * step + i]; count at least 1, n a multiple of 16
using maxima = void(const int32_t* const* rows, int64_t count, int64_t groups, int64_t step, int64_t n, int32_t* to);

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
  ukernel::depthwise_products* depthwise_products;
  ukernel::bitpack* bitpack;
  ukernel::bitunpack* bitunpack;
  ukernel::sign_ste* sign_ste;
  ukernel::sign_ste_backward* sign_ste_backward;
  ukernel::ste_residue* ste_residue;
  ukernel::ste_residue_backward* ste_residue_backward;
  ukernel::epilogue_scaled* epilogue_scaled;
  ukernel::epilogue_fused* epilogue_fused;
  ukernel::sign_limits* sign_limits;
  ukernel::gated_rows* gated_rows;
  ukernel::accumulate* accumulate;
  ukernel::round_store* round_store;
  ukernel::average_bins* average_bins;
  ukernel::spread_bins* spread_bins;
  ukernel::tile_rows* tile_rows;
  ukernel::expand_pixels* expand_pixels;
  ukernel::count_window* count_window;
  ukernel::pack_filters* pack_filters;
  ukernel::tile_products* tile_products;
  ukernel::max_abs* max_abs;
  ukernel::to_bytes* to_bytes;
  ukernel::byte_products* byte_products;
  ukernel::maxima* maxima;
};

const Ukernels& ukernels_of(Isa isa);

inline const Ukernels& ukernels() { return ukernels_of(isa_current()); }

}  // namespace bnn::cpu
