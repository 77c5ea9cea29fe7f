#include "cpu/tile_filters.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "cpu/conv_rows.h"
#include "cpu/tile_conv.h"

namespace bnn::cpu {
namespace {

int64_t panel_count(const ConvPlan& p) { return p.geometry.G * p.chunks; }

// The same for every size of images
PackedPanel take_packed(const ConvPlan& p, Parts& parts) {
  const ConvGeometry& g = p.geometry;
  auto* codes = parts.take<uint64_t>(p.tiles.steps() * tiles_of(g.Kg()) * kCodeWords);
  auto* ones = parts.take<int16_t>(g.taps() * kWordBits);
  return {codes, parts.take<uint8_t>(p.tiles.steps()), ones};
}

PackedPanel packed_at(const ConvPlan& p, void* packed, int64_t i) {
  Parts parts(static_cast<uint8_t*>(packed) + i * packed_bytes(p));
  return take_packed(p, parts);
}

bool words_as_they_are(const ConvPlan& p) { return p.geometry.Cg() % kWordBits == 0; }

// Panel i of a group
FilterWords filter_words(const ConvPlan& p, int64_t group, int64_t i) {
  const ConvGeometry& g = p.geometry;
  const int64_t stride = g.taps() * g.Lg(), first = i * kWordBits;
  return {p.weight + (group * g.Kg() + first) * stride,
          stride,
          std::min<int64_t>(kWordBits, g.Kg() - first),
          p.tiles.steps(),
          p.tiles.place.data(),
          nullptr,
          g.Lg()};
}

// Filters whose taps don't fill words: packed [64, steps], their ones counted.
FilterWords pack_rows(const ConvPlan& p, const FilterWords& filters, uint64_t* packed, int16_t* ones) {
  const ConvGeometry& g = p.geometry;
  const int64_t steps = p.tiles.steps();
  for (int64_t k = 0; k < filters.filters; ++k) {
    pack_filter(p, filters.row(k), p.tiles.run_taps, packed + k * steps);
    const uint64_t* word = filters.row(k);
    for (int64_t t = 0; t < g.taps(); ++t) {
      int count = 0;
      for (int64_t j = 0; j < g.Lg(); ++j) count += popcount(*word++);
      ones[t * kWordBits + k] = static_cast<int16_t>(count);
    }
  }
  return {packed, steps, filters.filters, steps, filters.place, p.tiles.valid.data(), 0};
}

// Whether 32 bits say where each position's words are
bool words_in_reach(const ConvPlan& p) {
  const int64_t most = std::numeric_limits<int32_t>::max() / (2 * words_for(p.geometry.K));
  return p.epilogue.words != nullptr && p.tiles.block() + p.geometry.OW <= most;
}

// Where a panel's words alone are asked for: base becomes what the rest of a dot product has to be below.
void limit_base(const ConvPlan& p, int64_t panel, const TileBounds& to) {
  const ConvGeometry& g = p.geometry;
  constexpr int kMostBits = 16383;  // the rest is up to twice that; limits beyond do no more than the next
  int32_t limits[kWordBits];
  int16_t within[kWordBits];
  const int64_t channel = panel / p.chunks * g.Kg() + panel % p.chunks * kWordBits;
  const bool may = g.K % kWordBits == 0 && words_in_reach(p) && g.bits() <= kMostBits;
  *to.limited = may && ukernels().sign_limits(p.epilogue, channel, limits, to.falling);
  if (*to.limited == 0) return;
  for (int k = 0; k < kWordBits; ++k) {
    within[k] = static_cast<int16_t>(std::clamp(limits[k], -kMostBits, kMostBits + 1));
  }
  int16_t* base = to.base;
  for (int64_t i = 0; i < class_count(p); ++i, base += kWordBits) {
    for (int k = 0; k < kWordBits; ++k) base[k] = static_cast<int16_t>(within[k] - base[k]);
  }
}

// Scratch to pack a panel
struct Packing {
  uint8_t* counts;  // [steps, 64]
  uint64_t* words;  // [64, steps]

  Packing(const ConvPlan& p, Parts& parts)
      : counts(parts.take<uint8_t>(p.tiles.steps() * kWordBits)),
        words(parts.take<uint64_t>(words_as_they_are(p) ? 0 : kWordBits * p.tiles.steps())) {}
};

void pack_panel(const ConvPlan& p, int64_t panel, const PackedPanel& to, void* scratch) {
  Parts parts(scratch);
  const Packing w(p, parts);
  FilterWords filters = filter_words(p, panel / p.chunks, panel % p.chunks);
  if (!words_as_they_are(p)) filters = pack_rows(p, filters, w.words, to.ones);
  ukernels().pack_filters(filters, to, w.counts);
}

}  // namespace

int64_t packed_bytes(const ConvPlan& p) {
  Parts parts;
  take_packed(p, parts);
  return parts.bytes();
}

// Nobody writes to filters that were packed before.
PackedPanel packed_panel(const ConvPlan& p, int64_t i) {
  return packed_at(p, p.packed.words == nullptr ? p.panels : const_cast<uint64_t*>(p.packed.words), i);
}

TileBounds bounds_of_panel(const ConvPlan& p, int64_t i) {
  const int64_t before = p.packed.words == nullptr ? panel_count(p) * packed_bytes(p) : 0;
  Parts parts(reinterpret_cast<uint8_t*>(p.panels) + before + i * TileBounds::bytes(p));
  return {p, parts};
}

bool any_limited(const ConvPlan& p) {
  for (int64_t i = 0; i < panel_count(p); ++i) {
    if (*bounds_of_panel(p, i).limited) return true;
  }
  return false;
}

int64_t packing_bytes(const ConvPlan& p) {
  Parts parts;
  static_cast<void>(Packing(p, parts));
  return parts.bytes();
}

int64_t tile_packed_words(const ConvPlan& p) { return panel_count(p) * packed_bytes(p) / 8; }

void pack_tiles(const ConvPlan& p, uint64_t* packed) {
  std::vector<uint64_t> scratch(static_cast<size_t>(packing_bytes(p) / 8));
  for (int64_t i = 0; i < panel_count(p); ++i) pack_panel(p, i, packed_at(p, packed, i), scratch.data());
}

int64_t tile_panels_words(const ConvPlan& p) {
  return (p.packed.words == nullptr ? tile_packed_words(p) : 0) + panel_count(p) * TileBounds::bytes(p) / 8;
}

void prepare_tiles(const ConvPlan& p, int64_t panel, uint64_t* scratch) {
  const PackedPanel packed = packed_panel(p, panel);
  if (p.packed.words == nullptr) pack_panel(p, panel, packed, scratch);
  const TileBounds bounds = bounds_of_panel(p, panel);
  sum_inside(p, packed.ones, bounds.base);
  limit_base(p, panel, bounds);
}

}  // namespace bnn::cpu
