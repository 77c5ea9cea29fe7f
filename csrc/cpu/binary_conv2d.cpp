#include "bnn/binary_conv2d.h"

#include <algorithm>

#include "bnn/epilogue.h"
#include "cpu/conv_rows.h"
#include "cpu/tile_conv.h"
#include "cpu/ukernels.h"

namespace bnn::cpu {
namespace {

constexpr int64_t kStripBytes = 24 * 1024;  // filter windows and dot products of a strip stay in L1 beside one panel

constexpr int64_t round_up(int64_t n, int64_t multiple) { return ceil_div(n, multiple) * multiple; }

BorderClasses classify(int64_t out, int64_t in, int64_t filter, int64_t stride, int64_t pad, int64_t dilation) {
  BorderClasses classes;
  classes.of.reserve(static_cast<size_t>(out));
  for (int64_t o = 0; o < out; ++o) {
    const TapRange inside = taps_inside(o, in, filter, stride, pad, dilation);
    const auto same = [&](const TapRange& c) { return c.begin == inside.begin && c.end == inside.end; };
    auto it = std::find_if(classes.inside.rbegin(), classes.inside.rend(), same);
    if (it == classes.inside.rend()) {
      classes.inside.push_back(inside);
      it = classes.inside.rbegin();
    }
    classes.of.push_back(static_cast<int32_t>(classes.inside.rend() - it - 1));
  }
  return classes;
}

int64_t strip_pixels(const ConvPlan& p) {
  const int64_t bytes = p.row_words * 8 + p.ld * 4;
  return std::clamp<int64_t>(kStripBytes / bytes / 8 * 8, 8, 256);
}

// tap_sums [count, taps]: sum_c w
void fill_base(const ConvPlan& p, int64_t k, int64_t count, const int32_t* tap_sums) {
  const ConvGeometry& g = p.geometry;
  int32_t* base = p.base + k;
  for (const TapRange& rows : p.rows.inside) {
    for (const TapRange& columns : p.columns.inside) {
      std::fill_n(base, count, static_cast<int32_t>(g.bits()));
      for (int64_t t = 0; t < g.taps(); ++t) {
        if (rows.contains(t / g.S) && columns.contains(t % g.S)) continue;
        for (int64_t i = 0; i < count; ++i) base[i] -= tap_sums[i * g.taps() + t];
      }
      base += p.ld;
    }
  }
}

// out[j][lane] = rows[lane][j]
void interleave(const uint64_t* const (&rows)[kPanel], int64_t words, uint64_t* out) {
  for (int64_t j = 0; j < words; ++j, out += kPanel) {
#pragma GCC unroll 16
    for (int lane = 0; lane < kPanel; ++lane) out[lane] = rows[lane][j];
  }
}

void prepare_panel(const ConvPlan& p, int64_t panel, uint64_t* scratch) {
  const ConvGeometry& g = p.geometry;
  const int64_t in_group = panel % p.group_panels * kPanel;
  const int64_t k0 = panel / p.group_panels * g.Kg() + in_group;
  const int64_t count = std::min<int64_t>(kPanel, g.Kg() - in_group);
  const int64_t filter_words = g.taps() * g.Lg();
  const uint64_t* rows[kPanel];
  for (int64_t lane = 0; lane < kPanel; ++lane) {
    uint64_t* packed = scratch + lane * p.row_words;
    const uint64_t* filter = p.weight + (k0 + lane) * filter_words;
    rows[lane] = packed;
    if (lane >= count) {
      std::fill_n(packed, p.row_words, uint64_t{0});
    } else if (g.Cg() % kWordBits == 0) {
      rows[lane] = filter;
    } else {
      pack_filter(p, filter, g.taps(), packed);
    }
  }
  interleave(rows, p.row_words, p.panels + panel * p.row_words * kPanel);
  if (!p.border_sums) {
    std::fill_n(p.base + k0, count, static_cast<int32_t>(g.bits()));
    return;
  }
  // Against all +1 the dot product of a tap is its sum.
  std::fill_n(scratch, g.Lg(), uint64_t{0});
  auto* tap_sums = reinterpret_cast<int32_t*>(scratch + g.Lg());
  ukernels().bgemv(scratch, p.weight + k0 * filter_words, g.Lg(), count * g.taps(), static_cast<int32_t>(g.Cg()),
                   tap_sums);
  fill_base(p, k0, count, tap_sums);
}

}  // namespace

namespace {

// Tiles where a matrix unit would read them, whatever the images' size
ConvPlan packing_plan(const BinaryConv2d& problem) {
  return binary_conv2d_plan(problem, isa_current() == Isa::amx ? Route::tiles : Route::popcount);
}

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
  p.row_words = g.depthwise() ? 0 : words_for(g.bits());
  p.group_panels = g.depthwise() ? 0 : ceil_div(g.Kg(), kPanel);
  p.ld = g.depthwise() ? round_up(g.K, kWordBits) : round_up(g.K, kPanel) + kPanel;
  p.strip = strip_pixels(p);
  const bool pointwise = g.taps() == 1 && g.stride_h == 1 && g.stride_w == 1 && g.G == 1 && !g.padded();
  p.pixel_bytes = g.depthwise() || pointwise ? 0 : g.Cg() % 8 == 0 ? g.C / 8 : g.L() * 8;
  p.border_sums = g.padded() && g.pad_value == 0 && !g.depthwise();
  const bool unit = route == Route::automatic && isa_current() == Isa::amx;
  if (!(route == Route::tiles || unit) || !plan_tiles(p, route == Route::tiles)) p.tiles = {};
  if (p.tiled()) p.pixel_bytes = 0;
  if (!p.tiled() || p.packed_size != tile_packed_words(p)) p.packed = nullptr;
  return p;
}

int64_t packed_words(const ConvGeometry& g) {
  BinaryConv2d problem;
  problem.geometry = g;
  const ConvPlan p = packing_plan(problem);
  return p.tiled() ? tile_packed_words(p) : 0;
}

void pack_filters(const BinaryConv2d& problem, uint64_t* packed) {
  const ConvPlan p = packing_plan(problem);
  if (p.tiled()) pack_tiles(p, packed);
}

int64_t image_rows(const ConvPlan& p) {
  return p.pixel_bytes == 0 ? 0 : p.geometry.N * (p.geometry.H + 2 * p.geometry.pad_h);
}

int64_t image_words(const ConvPlan& p) {
  if (p.pixel_bytes == 0) return 0;
  int64_t bytes = 0;
  if (__builtin_mul_overflow(image_rows(p), (p.geometry.W + 2 * p.geometry.pad_w) * p.pixel_bytes, &bytes)) return -1;
  return ceil_div(bytes, 8) + kCopySlack / 8;
}

int64_t filter_units(const ConvPlan& p) {
  const ConvGeometry& g = p.geometry;
  return g.depthwise() ? g.Kg() * g.taps() : g.G * (p.tiled() ? p.tiles.panels : p.group_panels);
}

int64_t pixel_words(const ConvPlan& p) {
  const ConvGeometry& g = p.geometry;
  return g.depthwise() ? filter_units(p) * g.L() : g.G * p.group_panels * p.row_words * kPanel;
}

int64_t panels_words(const ConvPlan& p) { return p.tiled() ? tile_panels_words(p) : pixel_words(p); }

int64_t base_size(const ConvPlan& p) {
  return p.geometry.depthwise() || p.tiled() ? 0 : p.ld * (p.border_sums ? p.rows.size() * p.columns.size() : 1);
}

int64_t scratch_words(const ConvPlan& p) {
  const ConvGeometry& g = p.geometry;
  if (p.tiled()) return tile_scratch_words(p);
  const int64_t strip = p.strip * (p.row_words + 1) + kCopySlack / 8 + p.strip * p.ld / 2;
  const int64_t filters = std::max(p.row_words * kPanel, g.Lg() + g.taps() * kPanel / 2);
  return std::max(strip, filters);
}

void binary_conv2d_image(const ConvPlan& p, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; ++row) fill_image_row(p, row);
}

void binary_conv2d_filters(const ConvPlan& p, int64_t unit_begin, int64_t unit_end, uint64_t* scratch) {
  for (int64_t i = unit_begin; i < unit_end; ++i) {
    if (p.geometry.depthwise()) {
      slice_tap(p, i);
    } else if (p.tiled()) {
      prepare_tiles(p, i, scratch);
    } else {
      prepare_panel(p, i, scratch);
    }
  }
}

void binary_conv2d(const ConvPlan& p, int64_t begin, int64_t end, uint64_t* scratch) {
  if (p.tiled()) return tile_conv(p, begin, end, scratch);
  const ConvGeometry& g = p.geometry;
  const Ukernels& k = ukernels();
  auto* dot = reinterpret_cast<int32_t*>(scratch);  // [strip, ld]
  auto** base = reinterpret_cast<const int32_t**>(scratch + p.strip * p.ld / 2);
  uint64_t* windows = scratch + p.strip * p.ld / 2 + p.strip;  // [strip, row_words] and slack
  for (int64_t first = begin; first < end; first += p.strip) {
    const int64_t count = std::min(p.strip, end - first);
    if (g.depthwise()) {
      depthwise_rows(p, first, count, dot);
    } else {
      base_rows(p, first, count, base);
    }
    // Groups ascend: what a group's last panel writes beyond its filters is overwritten by the next group.
    for (int64_t panel = 0; panel < g.G * p.group_panels; ++panel) {
      const int64_t group = panel / p.group_panels, in_group = panel % p.group_panels * kPanel;
      const uint64_t* a = p.pixel_bytes == 0 ? p.x + first * p.row_words : windows;
      if (in_group == 0 && p.pixel_bytes != 0) gather_windows(p, group, first, count, windows);
      const int64_t column = group * g.Kg() + in_group;
      k.bgemm(a, count, p.row_words, p.panels + panel * p.row_words * kPanel, base, column, dot + column, p.ld);
    }
    store_rows(p.epilogue, {.wide = dot, .ld = p.ld}, {first, count, 0, g.K});
  }
}

}  // namespace bnn::cpu
