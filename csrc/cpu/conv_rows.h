#pragma once

#include <algorithm>
#include <cstdint>

#include "bnn/binary_conv2d.h"

namespace bnn::cpu {

// Output pixels [first, first + count), cut into runs within one output row: f(image n, row oh, first column ow, run
// length).
template <class F>
void for_each_run(const ConvGeometry& g, int64_t first, int64_t count, F&& f) {
  int64_t ow = first % g.OW, oh = first / g.OW % g.OH, n = first / (g.OW * g.OH);
  while (count > 0) {
    const int64_t run = count < g.OW - ow ? count : g.OW - ow;
    f(n, oh, ow, run);
    count -= run;
    ow = 0;
    if (++oh < g.OH) continue;
    oh = 0;
    ++n;
  }
}

// The same, cut further where the border class of columns changes
template <class F>
void for_each_piece(const ConvPlan& p, int64_t first, int64_t count, F&& f) {
  for_each_run(p.geometry, first, count, [&](int64_t n, int64_t oh, int64_t ow, int64_t run) {
    for (int64_t end = ow + run; ow < end;) {
      const int64_t some = std::min(end, p.columns.end[p.columns.of[ow]]) - ow;
      f(n, oh, ow, some);
      ow += some;
    }
  });
}

// Copies may read and write this many bytes past what they are asked for.
inline constexpr int64_t kCopySlack = 64;

// Row `row` of the padded image copy, of N * (H + 2 pad).
void fill_image_row(const ConvPlan& p, int64_t row);

// Filter windows of `count` output pixels, taps concatenated bit by bit: [count, row_words].
void gather_windows(const ConvPlan& p, int64_t group, int64_t first, int64_t count, uint64_t* windows);

// The image at tap (0, 0) of output pixel (n, oh, ow), perhaps outside of it
const char* window_corner(const ConvPlan& p, int64_t n, int64_t oh, int64_t ow);

// One filter [taps, Lg], every `run` taps concatenated to whole words; run = taps is the form of the windows.
void pack_filter(const ConvPlan& p, const uint64_t* filter, int64_t run, uint64_t* row);

}  // namespace bnn::cpu
