#include "bnn/binary_conv2d.h"

#include <algorithm>

#include "cpu/conv_rows.h"
#include "cpu/depthwise.h"
#include "cpu/isa.h"
#include "cpu/popcount_conv.h"
#include "cpu/tile_conv.h"

namespace bnn::cpu {
namespace {

BorderClasses classify(int64_t out, int64_t in, int64_t filter, int64_t stride, int64_t pad, int64_t dilation) {
  BorderClasses classes;
  classes.of.reserve(static_cast<size_t>(out));
  // Where the filter moves on, its first and last taps inside never grow: a class begins where they differ.
  for (int64_t o = 0; o < out; ++o) {
    const TapRange inside = taps_inside(o, in, filter, stride, pad, dilation);
    const auto same = [&](const TapRange& c) { return c.begin == inside.begin && c.end == inside.end; };
    if (classes.inside.empty() || !same(classes.inside.back())) {
      classes.inside.push_back(inside);
      classes.end.push_back(o + 1);
    } else {
      classes.end.back() = o + 1;
    }
    classes.of.push_back(static_cast<int32_t>(classes.size() - 1));
  }
  return classes;
}

// Tiles where a matrix unit would read them, whatever the images' size
ConvPlan packing_plan(const BinaryConv2d& problem) {
  return binary_conv2d_plan(problem, isa_current() == Isa::amx ? Route::tiles : Route::popcount);
}

int64_t packed_words(const ConvPlan& p) {
  if (p.geometry.depthwise()) return depthwise_packed_words(p.geometry);
  return p.tiled() ? tile_packed_words(p) : popcount_packed_words(p);
}

Route route_of(const ConvPlan& p) { return p.tiled() ? Route::tiles : Route::popcount; }

}  // namespace

std::string_view binary_conv2d_route(const ConvPlan& p) {
  const Isa current = isa_current();
  return isa_name(current == Isa::amx && !p.tiled() ? Isa::avx512 : current);
}

ConvPlan binary_conv2d_plan(const BinaryConv2d& problem, Route route) {
  ConvPlan p;
  static_cast<BinaryConv2d&>(p) = problem;
  const ConvGeometry& g = p.geometry;
  p.rows = classify(g.OH, g.H, g.R, g.stride_h, g.pad_h, g.dilation_h);
  p.columns = classify(g.OW, g.W, g.S, g.stride_w, g.pad_w, g.dilation_w);
  p.border_sums = g.padded() && g.pad_value == 0 && !g.depthwise();
  if (g.depthwise()) {
    plan_depthwise(p);
  } else {
    plan_popcount(p);
    const bool unit = route == Route::automatic && isa_current() == Isa::amx;
    if (!(route == Route::tiles || unit) || !plan_tiles(p, route == Route::tiles)) p.tiles = {};
    if (p.tiled()) p.copied = false;
  }
  if (p.packed.route != route_of(p) || p.packed.size != packed_words(p)) p.packed = {};
  return p;
}

PackedFilters packed_filters(const ConvGeometry& g) {
  BinaryConv2d problem;
  problem.geometry = g;
  const ConvPlan p = packing_plan(problem);
  return {route_of(p), nullptr, packed_words(p)};
}

void pack_filters(const BinaryConv2d& problem, uint64_t* packed) {
  const ConvPlan p = packing_plan(problem);
  if (p.geometry.depthwise()) {
    for (int64_t l = 0; l < p.geometry.L(); ++l) pack_depthwise(p, l, packed);
    return;
  }
  p.tiled() ? pack_tiles(p, packed) : pack_popcount(p, packed);
}

int64_t image_rows(const ConvPlan& p) { return p.copied ? p.geometry.N * (p.geometry.H + 2 * p.geometry.pad_h) : 0; }

int64_t image_words(const ConvPlan& p) {
  if (!p.copied) return 0;
  int64_t bytes = 0;
  if (__builtin_mul_overflow(image_rows(p), (p.geometry.W + 2 * p.geometry.pad_w) * p.pixel_bytes, &bytes)) return -1;
  return ceil_div(bytes, 8) + kCopySlack / 8;
}

int64_t filter_units(const ConvPlan& p) {
  const ConvGeometry& g = p.geometry;
  return g.depthwise() ? g.L() : g.G * p.chunks;
}

int64_t pixel_words(const ConvPlan& p) {
  const ConvGeometry& g = p.geometry;
  return filter_units(p) * (g.depthwise() ? g.Kg() * g.taps() : p.row_words * kWordBits);
}

int64_t panels_words(const ConvPlan& p) {
  if (p.geometry.depthwise()) return depthwise_panels_words(p);
  return p.tiled() ? tile_panels_words(p) : popcount_panels_words(p);
}

int64_t scratch_words(const ConvPlan& p) {
  if (p.geometry.depthwise()) return depthwise_scratch_words(p);
  return p.tiled() ? tile_scratch_words(p) : popcount_scratch_words(p);
}

void binary_conv2d_image(const ConvPlan& p, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) fill_image_row(p, row);
}

void binary_conv2d_filters(const ConvPlan& p, int64_t unit_begin, int64_t unit_end, uint64_t* scratch) {
  for (int64_t i = unit_begin; i < unit_end; ++i) {
    if (p.geometry.depthwise()) {
      prepare_depthwise(p, i);
    } else if (p.tiled()) {
      prepare_tiles(p, i, scratch);
    } else {
      prepare_popcount(p, i, scratch);
    }
  }
}

void binary_conv2d(const ConvPlan& p, int64_t begin, int64_t end, uint64_t* scratch) {
  if (p.geometry.depthwise()) return depthwise_conv(p, begin, end, scratch);
  p.tiled() ? tile_conv(p, begin, end, scratch) : popcount_conv(p, begin, end, scratch);
}

}  // namespace bnn::cpu
