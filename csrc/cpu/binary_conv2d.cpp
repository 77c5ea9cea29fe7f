#include "bnn/binary_conv2d.h"

#include <algorithm>

#include "cpu/conv_rows.h"
#include "bnn/epilogue.h"
#include "cpu/ukernels.h"

namespace bnn::cpu {
namespace {

constexpr int64_t kStripBytes = 24 * 1024;  // filter windows and dot products of a strip stay in L1 beside one panel

constexpr int64_t round_up(int64_t n, int64_t multiple) { return ceil_div(n, multiple) * multiple; }

void classify(int64_t out, int64_t in, int64_t filter, int64_t stride, int64_t pad, int64_t dilation,
              std::vector<int32_t>& class_of, std::vector<TapRange>& classes) {
  class_of.resize(static_cast<size_t>(out));
  classes.clear();
  for (int64_t o = 0; o < out; ++o) {
    const TapRange inside = taps_inside(o, in, filter, stride, pad, dilation);
    const auto same = [&](const TapRange& c) { return c.begin == inside.begin && c.end == inside.end; };
    auto it = std::find_if(classes.rbegin(), classes.rend(), same);
    if (it == classes.rend()) {
      classes.push_back(inside);
      it = classes.rbegin();
    }
    class_of[static_cast<size_t>(o)] = static_cast<int32_t>(classes.rend() - it - 1);
  }
}

int64_t strip_pixels(const BinaryConv2d& p) {
  const int64_t bytes = p.row_words * 8 + p.ld * 4;
  return std::clamp<int64_t>(kStripBytes / bytes / 8 * 8, 8, 256);
}

bool whole(const TapRange& range, int64_t filter) { return range.begin == 0 && range.end == filter; }

// table[class] = sum over the taps outside of sum_c w, which the words saw as +1 pixels.
void fill_border_table(const BinaryConv2d& p, int64_t k, int64_t count, const int32_t* tap_sums) {
  const ConvGeometry& g = p.geometry;
  const auto columns = static_cast<int64_t>(p.border.columns.size());
  for (int64_t rc = 0; rc < static_cast<int64_t>(p.border.rows.size()); ++rc) {
    for (int64_t cc = 0; cc < columns; ++cc) {
      const TapRange rows = p.border.rows[rc], cols = p.border.columns[cc];
      int32_t* sums = p.border_table + (rc * columns + cc) * p.ld + k;
      std::fill_n(sums, count, 0);
      for (int64_t t = 0; t < g.taps(); ++t) {
        const int64_t r = t / g.S, s = t % g.S;
        if (r >= rows.begin && r < rows.end && s >= cols.begin && s < cols.end) continue;
        for (int64_t i = 0; i < count; ++i) sums[i] += tap_sums[i * g.taps() + t];
      }
    }
  }
}

void subtract_border(const BinaryConv2d& p, int64_t first, int64_t count, int32_t* dot) {
  const ConvGeometry& g = p.geometry;
  const auto columns = static_cast<int64_t>(p.border.columns.size());
  PixelCursor at(g, first);
  for (int64_t i = 0; i < count; ++i, at.next(g)) {
    const int64_t rc = p.border.row_class[at.oh], cc = p.border.column_class[at.ow];
    if (whole(p.border.rows[rc], g.R) && whole(p.border.columns[cc], g.S)) continue;
    const int32_t* sums = p.border_table + (rc * columns + cc) * p.ld;
    int32_t* row = dot + i * p.ld;
    for (int64_t k = 0; k < g.K; ++k) row[k] -= sums[k];
  }
}

void prepare_panel(const BinaryConv2d& p, int64_t panel, uint64_t* scratch) {
  const ConvGeometry& g = p.geometry;
  const int64_t in_group = panel % p.group_panels * kPanel;
  const int64_t k0 = panel / p.group_panels * g.Kg() + in_group;
  const int64_t count = std::min<int64_t>(kPanel, g.Kg() - in_group);
  const int64_t filter_words = g.taps() * g.Lg();
  uint64_t* out = p.panels + panel * p.row_words * kPanel;
  for (int64_t lane = 0; lane < kPanel; ++lane) {
    const uint64_t* row = scratch;
    if (lane >= count) {
      std::fill_n(scratch, p.row_words, uint64_t{0});
    } else if (g.Cg() % kWordBits == 0) {
      row = p.weight + (k0 + lane) * filter_words;
    } else {
      pack_filter(p, p.weight + (k0 + lane) * filter_words, scratch);
    }
    for (int64_t j = 0; j < p.row_words; ++j) out[j * kPanel + lane] = row[j];
  }
  if (!p.border_sums) return;
  std::fill_n(scratch, g.Lg(), uint64_t{0});
  auto* tap_sums = reinterpret_cast<int32_t*>(scratch + g.Lg());
  // Against all +1 the dot product of a tap is its sum.
  ukernels().bgemv(scratch, p.weight + k0 * filter_words, g.Lg(), count * g.taps(), static_cast<int32_t>(g.Cg()),
                   tap_sums);
  fill_border_table(p, k0, count, tap_sums);
}

}  // namespace

void binary_conv2d_plan(BinaryConv2d& p) {
  const ConvGeometry& g = p.geometry;
  p.row_words = g.depthwise() ? 0 : words_for(g.bits());
  p.group_panels = g.depthwise() ? 0 : ceil_div(g.Kg(), kPanel);
  p.ld = g.depthwise() ? round_up(g.K, kWordBits) : round_up(g.K, kPanel) + kPanel;
  p.strip = strip_pixels(p);
  p.border_sums = g.padded() && g.pad_value == 0 && !g.depthwise();
  classify(g.OH, g.H, g.R, g.stride_h, g.pad_h, g.dilation_h, p.border.row_class, p.border.rows);
  classify(g.OW, g.W, g.S, g.stride_w, g.pad_w, g.dilation_w, p.border.column_class, p.border.columns);
}

int64_t panels_words(const BinaryConv2d& p) {
  const ConvGeometry& g = p.geometry;
  return g.depthwise() ? g.Kg() * g.taps() * g.L() : g.G * p.group_panels * p.row_words * kPanel;
}

int64_t border_table_size(const BinaryConv2d& p) {
  if (!p.border_sums) return 0;
  return static_cast<int64_t>(p.border.rows.size() * p.border.columns.size()) * p.ld;
}

int64_t prepare_count(const BinaryConv2d& p) {
  const ConvGeometry& g = p.geometry;
  return g.depthwise() ? g.Kg() * g.taps() : g.G * p.group_panels;
}

int64_t scratch_words(const BinaryConv2d& p) {
  const ConvGeometry& g = p.geometry;
  const int64_t strip = p.strip * p.row_words + p.strip * p.ld / 2;
  const int64_t prepare = std::max(p.row_words, g.Lg() + g.taps() * kPanel / 2);
  return std::max(strip, prepare);
}

void binary_conv2d_prepare(const BinaryConv2d& p, int64_t begin, int64_t end, uint64_t* scratch) {
  for (int64_t i = begin; i < end; ++i) {
    if (p.geometry.depthwise()) {
      slice_tap(p, i);
    } else {
      prepare_panel(p, i, scratch);
    }
  }
}

void binary_conv2d(const BinaryConv2d& p, int64_t begin, int64_t end, uint64_t* scratch) {
  const ConvGeometry& g = p.geometry;
  const Ukernels& k = ukernels();
  uint64_t* windows = scratch;
  auto* dot = reinterpret_cast<int32_t*>(scratch + p.strip * p.row_words);
  for (int64_t first = begin; first < end; first += p.strip) {
    const int64_t count = std::min(p.strip, end - first);
    if (g.depthwise()) depthwise_rows(p, first, count, dot);
    // Groups ascend: what a group's last panel writes beyond its filters is overwritten by the next group.
    for (int64_t panel = 0; panel < g.G * p.group_panels; ++panel) {
      const int64_t group = panel / p.group_panels, in_group = panel % p.group_panels * kPanel;
      if (in_group == 0) gather_windows(p, group, first, count, windows);
      k.bgemm(windows, count, p.row_words, p.panels + panel * p.row_words * kPanel, static_cast<int32_t>(g.bits()),
              dot + group * g.Kg() + in_group, p.ld);
    }
    if (p.border_sums) subtract_border(p, first, count, dot);
    store_rows(p.epilogue, dot, p.ld, first, count);
  }
}

}  // namespace bnn::cpu
