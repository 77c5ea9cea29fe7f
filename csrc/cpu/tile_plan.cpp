#include <algorithm>

#include "cpu/tile_conv.h"
#include "cpu/ukernels.h"

namespace bnn::cpu {
namespace {

constexpr int64_t kBlockBytes = 384 * 1024;   // expanded pixels: a part of L2
constexpr int64_t kMostBlockBytes = 8 << 20;  // wide rows with far reaching filters: popcounts instead
constexpr int64_t kLongJob = 256;             // tiles, where two groups of steps may be all
constexpr int64_t kMostBits = 32766;          // dot products stay below 2^15 - 1

std::vector<int64_t> phases(int64_t filter, int64_t dilation, int64_t stride) {
  std::vector<int64_t> found;
  for (int64_t t = 0; t < filter; ++t) {
    const int64_t phase = t * dilation % stride;
    if (std::find(found.begin(), found.end(), phase) == found.end()) found.push_back(phase);
  }
  return found;
}

int64_t index_of(const std::vector<int64_t>& values, int64_t v) {
  return std::find(values.begin(), values.end(), v) - values.begin();
}

// Block of output positions whose planes fit in kBlockBytes, all blocks about equal.
void choose_block(const ConvGeometry& g, TilePlan& t) {
  const int64_t budget = std::max<int64_t>(1, kBlockBytes / (g.C * t.planes()));
  const auto even = [](int64_t total, int64_t most) { return ceil_div(total, ceil_div(total, most)); };
  t.out_columns = g.OW;
  t.out_rows = g.OH;
  t.shared = g.stride_w == 1 ? std::min(g.pad_w, t.reach_w) : 0;
  if (t.plane() <= budget) {
    t.images = even(g.N, std::clamp<int64_t>(budget / t.plane(), 1, g.N));
    return;
  }
  const int64_t rows = budget / (g.OW + t.reach_w) - t.reach_h;
  if (rows >= 1) {
    t.out_rows = even(g.OH, std::min(rows, g.OH));
    return;
  }
  t.out_rows = 1;
  const int64_t columns = budget / (1 + t.reach_h) - t.reach_w;
  t.out_columns = even(g.OW, std::clamp<int64_t>(columns, std::min<int64_t>(g.OW, 4 * kTileRows), g.OW));
  if (t.out_columns < g.OW) t.shared = 0;
}

// As few tiles as possible, of as few rows as possible
void choose_rows(TilePlan& t) {
  const int64_t run = t.run();
  const int64_t across = ceil_div(run, kTileRows), in_row = ceil_div(t.out_columns, kTileRows);
  t.within_rows = t.out_rows * in_row <= across;
  t.rows = static_cast<int>(t.within_rows ? ceil_div(t.out_columns, in_row) : ceil_div(run, across));
}

// Word by word all taps, so that the pixels' bytes of a word stay in L1 over them.
void find_steps(const ConvGeometry& g, TilePlan& t) {
  const bool ragged = g.Cg() % kWordBits != 0;
  t.run_taps = ragged && g.dilation_w == 1 && g.stride_w == 1 && g.G == 1 ? g.S : 1;
  const int64_t run = t.run_taps * g.Cg(), runs = ceil_div(g.taps(), t.run_taps), words = words_for(run);
  for (int64_t tap = 0; tap < g.taps(); ++tap) {
    const int64_t h = tap / g.S * g.dilation_h, w = tap % g.S * g.dilation_w;
    const int64_t plane = index_of(t.phases_h, h % g.stride_h) * static_cast<int64_t>(t.phases_w.size()) +
                          index_of(t.phases_w, w % g.stride_w);
    t.taps.push_back(plane * t.plane() + h / g.stride_h * t.pitch() + w / g.stride_w);
  }
  for (int64_t word = 0; word < words; ++word) {
    for (int64_t i = 0; i < runs; ++i) t.offsets.push_back(t.taps[i * t.run_taps] * g.C + word * kWordBits);
  }
  for (int64_t i = 0; i < runs; ++i) {
    for (int64_t word = 0; word < words; ++word) {
      t.place.push_back(word * runs + i);
      if (ragged) t.valid.push_back(low_bits(run - word * kWordBits));
    }
  }
}

// Estimates in cycles of one thread, from times on one quiet machine: the choice is the same in every run, though
// a neighbour that keeps the unit busy makes products on it take twice as long.
double popcount_cost(const ConvPlan& p) {
  const ConvGeometry& g = p.geometry;
  const double panels = static_cast<double>(g.G * ceil_div(g.Kg(), kPanel)), words = static_cast<double>(p.row_words);
  const double classes = p.border_sums ? static_cast<double>(p.rows.size() * p.columns.size()) : 0.0;
  const double filter_words = static_cast<double>(g.K * g.taps() * g.Lg());
  const double shifting = g.Cg() % kWordBits == 0 ? 0.0 : 30.0 * filter_words;  // taps that don't fill words
  return panels * (40.0 * words + (5.5 + 2.6 * words) * static_cast<double>(g.pixels())) +
         classes * static_cast<double>(g.K * g.taps()) + shifting;
}

double tile_cost(const ConvPlan& p) {
  const ConvGeometry& g = p.geometry;
  const TilePlan& t = p.tiles;
  const double parts = static_cast<double>(g.pixels()) / static_cast<double>(t.out_rows * t.out_columns);
  const double all = parts * static_cast<double>(t.tiles_of_image());
  const double panels = static_cast<double>(g.G * ceil_div(g.Kg(), kTileFilters));
  const double steps = static_cast<double>(t.steps());
  return 2000.0 + 10.0 * parts * static_cast<double>(t.image()) +
         panels * (70.0 * steps + all * (140.0 + 1.4 * t.rows * steps));
}

}  // namespace

bool plan_tiles(ConvPlan& p, bool always) {
  const ConvGeometry& g = p.geometry;
  if (g.depthwise() || g.pixels() == 0 || g.K == 0 || g.bits() > kMostBits) return false;
  if (g.G > 1 && g.Kg() % kWordBits != 0) return false;  // panels write whole words
  TilePlan& t = p.tiles;
  t.phases_h = phases(g.R, g.dilation_h, g.stride_h);
  t.phases_w = phases(g.S, g.dilation_w, g.stride_w);
  t.reach_h = (g.R - 1) * g.dilation_h / g.stride_h;
  t.reach_w = (g.S - 1) * g.dilation_w / g.stride_w;
  choose_block(g, t);
  const double block =
      static_cast<double>(t.images * t.planes()) * static_cast<double>(t.plane()) * static_cast<double>(g.C);
  if (block > static_cast<double>(kMostBlockBytes)) return false;
  choose_rows(t);
  find_steps(g, t);
  const int64_t most = t.steps() <= 2 * kMostSteps ? kLongJob : kJobTiles;
  const int64_t block_tiles = t.images * t.tiles_of_image();
  t.job = std::min(most, ceil_div(ceil_div(block_tiles, ceil_div(block_tiles, most)), 2) * 2);
  return always || tile_cost(p) < popcount_cost(p);
}

}  // namespace bnn::cpu
