#include <algorithm>

#include "cpu/conv_rows.h"
#include "cpu/ukernels.h"

namespace bnn::cpu {
namespace {

// 64 counters side by side: bit c of planes[b] is bit b of counter c. Counts up to 2^kPlanes - 1.
template <int kPlanes>
struct Counters {
  uint64_t planes[kPlanes] = {};

  void add(uint64_t bits) {
#pragma GCC unroll 4
    for (int b = 0; b < kPlanes; ++b) {
      const uint64_t carry = planes[b] & bits;
      planes[b] ^= bits;
      bits = carry;
    }
  }
};

struct Pixel {
  TapRange rows, columns;
  const uint64_t* corner;  // word 0 of tap (0, 0), perhaps outside
};

// Mismatches of word l with a slice of the filters. Taps outside are left out for pad_value 0.
template <int kPlanes>
Counters<kPlanes> count_taps(const ConvGeometry& g, const Pixel& px, int64_t l, const uint64_t* slice) {
  Counters<kPlanes> counters;
  const auto add_inside = [&](int64_t r, int64_t s) {
    const uint64_t x = px.corner[(r * g.dilation_h * g.W + s * g.dilation_w) * g.L() + l];
    counters.add(x ^ slice[(r * g.S + s) * g.L() + l]);
  };
  if (g.pad_value == 0) {
    for (int64_t r = px.rows.begin; r < px.rows.end; ++r) {
      for (int64_t s = px.columns.begin; s < px.columns.end; ++s) add_inside(r, s);
    }
    return counters;
  }
  const uint64_t outside = g.pad_value < 0 ? ~uint64_t{0} : 0;
  for (int64_t r = 0; r < g.R; ++r) {
    for (int64_t s = 0; s < g.S; ++s) {
      if (px.rows.contains(r) && px.columns.contains(s)) {
        add_inside(r, s);
      } else {
        counters.add(outside ^ slice[(r * g.S + s) * g.L() + l]);
      }
    }
  }
  return counters;
}

// dot [K] of one pixel; filter c * multiplier + m reads channel c.
template <int kPlanes>
void pixel_dots(const BinaryConv2d& p, const Pixel& px, int32_t* dot) {
  const ConvGeometry& g = p.geometry;
  const Ukernels& k = ukernels();
  const int64_t multiplier = g.Kg();
  const int64_t inside = (px.rows.end - px.rows.begin) * (px.columns.end - px.columns.begin);
  const auto taps = static_cast<int32_t>(g.pad_value == 0 ? inside : g.taps());
  for (int64_t l = 0; l < g.L(); ++l) {
    for (int64_t m = 0; m < multiplier; ++m) {
      const auto counters = count_taps<kPlanes>(g, px, l, p.panels + m * g.taps() * g.L());
      if (multiplier == 1) {
        k.counters_to_dot(counters.planes, kPlanes, taps, dot + l * kWordBits);
        continue;
      }
      int32_t lanes[kWordBits];
      k.counters_to_dot(counters.planes, kPlanes, taps, lanes);
      const int64_t channels = std::min<int64_t>(kWordBits, g.C - l * kWordBits);
      for (int64_t c = 0; c < channels; ++c) dot[(l * kWordBits + c) * multiplier + m] = lanes[c];
    }
  }
}

}  // namespace

void depthwise_rows(const BinaryConv2d& p, int64_t first, int64_t count, int32_t* dot) {
  const ConvGeometry& g = p.geometry;
  PixelCursor at(g, first);
  for (int64_t i = 0; i < count; ++i, at.next(g), dot += p.ld) {
    const int64_t h = at.oh * g.stride_h - g.pad_h, w = at.ow * g.stride_w - g.pad_w;
    const Pixel px{p.rows.inside[p.rows.of[at.oh]], p.columns.inside[p.columns.of[at.ow]],
                   p.x + ((at.n * g.H + h) * g.W + w) * g.L()};
    if (g.taps() < 16) {
      pixel_dots<4>(p, px, dot);
    } else {
      pixel_dots<31>(p, px, dot);
    }
  }
}

}  // namespace bnn::cpu
