#include <algorithm>
#include <bit>

#include "cpu/conv_rows.h"
#include "cpu/ukernels.h"

namespace bnn::cpu {
namespace {

// 64 counters side by side: bit c of planes[b] is bit b of counter c.
struct Counters {
  uint64_t planes[32] = {};
  int used = 0;
  uint32_t seen = 0;

  void add(uint64_t bits) {
    used = std::bit_width(++seen);
    for (int b = 0; b < used && bits != 0; ++b) {
      const uint64_t carry = planes[b] & bits;
      planes[b] ^= bits;
      bits = carry;
    }
  }
};

struct Pixel {
  const BinaryConv2d& p;
  TapRange rows, columns;
  const uint64_t* corner;
};

// Mismatches of word l with slice m of the filters; taps outside are left out for pad_value 0.
Counters count_taps(const Pixel& px, int64_t l, const uint64_t* slice) {
  const ConvGeometry& g = px.p.geometry;
  const uint64_t outside = g.pad_value < 0 ? ~uint64_t{0} : 0;
  Counters counters;
  for (int64_t r = 0; r < g.R; ++r) {
    for (int64_t s = 0; s < g.S; ++s) {
      const bool inside = px.rows.contains(r) && px.columns.contains(s);
      if (!inside && g.pad_value == 0) continue;
      const uint64_t x = inside ? px.corner[(r * g.dilation_h * g.W + s * g.dilation_w) * g.L() + l] : outside;
      counters.add(x ^ slice[(r * g.S + s) * g.L() + l]);
    }
  }
  return counters;
}

}  // namespace

void depthwise_rows(const BinaryConv2d& p, int64_t first, int64_t count, int32_t* dot) {
  const ConvGeometry& g = p.geometry;
  const Ukernels& k = ukernels();
  const int64_t multiplier = g.Kg();
  PixelCursor at(g, first);
  for (int64_t i = 0; i < count; ++i, at.next(g), dot += p.ld) {
    const int64_t h = at.oh * g.stride_h - g.pad_h, w = at.ow * g.stride_w - g.pad_w;
    const Pixel px{p, p.rows.inside[p.rows.of[at.oh]], p.columns.inside[p.columns.of[at.ow]],
                   p.x + ((at.n * g.H + h) * g.W + w) * g.L()};
    for (int64_t l = 0; l < g.L(); ++l) {
      for (int64_t m = 0; m < multiplier; ++m) {
        const Counters counters = count_taps(px, l, p.panels + m * g.taps() * g.L());
        const auto taps = static_cast<int32_t>(counters.seen);
        if (multiplier == 1) {
          k.counters_to_dot(counters.planes, counters.used, taps, dot + l * kWordBits);
          continue;
        }
        int32_t lanes[kWordBits];
        k.counters_to_dot(counters.planes, counters.used, taps, lanes);
        const int64_t channels = std::min<int64_t>(kWordBits, g.C - l * kWordBits);
        for (int64_t c = 0; c < channels; ++c) dot[(l * kWordBits + c) * multiplier + m] = lanes[c];
      }
    }
  }
}

}  // namespace bnn::cpu
