#include "cpu/depthwise.h"

#include <algorithm>

#include "bnn/epilogue.h"
#include "cpu/conv_rows.h"
#include "cpu/ukernels.h"

namespace bnn::cpu {
namespace {

constexpr int64_t kStripBytes = 24 * 1024;  // dot products of a strip stay in L1

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
  int64_t corner;  // word 0 of tap (0, 0) in x, perhaps outside of it
};

// Mismatches of word l with a slice of the filters. Taps outside are left out for pad_value 0.
template <int kPlanes>
Counters<kPlanes> count_taps(const ConvPlan& p, const Pixel& px, int64_t l, const uint64_t* slice) {
  const ConvGeometry& g = p.geometry;
  Counters<kPlanes> counters;
  const int64_t L = g.L(), step = g.dilation_w * L, row_step = g.dilation_h * g.W * L;
  const uint64_t outside = g.pad_value < 0 ? ~uint64_t{0} : 0;
  for (int64_t r = 0; r < g.R; ++r, slice += g.S * L) {
    const TapRange columns = px.rows.contains(r) ? px.columns : TapRange{0, 0};
    int64_t at = px.corner + r * row_step + columns.begin * step + l;
    for (int64_t s = columns.begin; s < columns.end; ++s, at += step) counters.add(p.x[at] ^ slice[s * L + l]);
    if (g.pad_value == 0) continue;
    for (int64_t s = 0; s < columns.begin; ++s) counters.add(outside ^ slice[s * L + l]);
    for (int64_t s = columns.end; s < g.S; ++s) counters.add(outside ^ slice[s * L + l]);
  }
  return counters;
}

// dot [K] of one pixel; filter c * multiplier + m reads channel c.
template <int kPlanes>
void pixel_dots(const ConvPlan& p, const Pixel& px, int32_t* dot) {
  const ConvGeometry& g = p.geometry;
  const Ukernels& k = ukernels();
  const int64_t multiplier = g.Kg();
  const int64_t inside = (px.rows.end - px.rows.begin) * (px.columns.end - px.columns.begin);
  const auto taps = static_cast<int32_t>(g.pad_value == 0 ? inside : g.taps());
  for (int64_t l = 0; l < g.L(); ++l) {
    for (int64_t m = 0; m < multiplier; ++m) {
      const auto counters = count_taps<kPlanes>(p, px, l, p.panels + m * g.taps() * g.L());
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

// dot [count, ld]
void depthwise_rows(const ConvPlan& p, int64_t first, int64_t count, int32_t* dot) {
  const ConvGeometry& g = p.geometry;
  for_each_run(g, first, count, [&](int64_t n, int64_t oh, int64_t ow, int64_t run) {
    const int64_t h = oh * g.stride_h - g.pad_h, w = ow * g.stride_w - g.pad_w;
    Pixel px{p.rows.inside[p.rows.of[oh]], {}, ((n * g.H + h) * g.W + w) * g.L()};
    for (int64_t i = 0; i < run; ++i, dot += p.ld, px.corner += g.stride_w * g.L()) {
      px.columns = p.columns.inside[p.columns.of[ow + i]];
      if (g.taps() < 16) {
        pixel_dots<4>(p, px, dot);
      } else {
        pixel_dots<31>(p, px, dot);
      }
    }
  });
}

}  // namespace

void plan_depthwise(ConvPlan& p) {
  p.ld = words_for(p.geometry.K) * kWordBits;
  p.strip = std::clamp<int64_t>(kStripBytes / (p.ld * 4), 8, 256);
}

int64_t depthwise_scratch_words(const ConvPlan& p) { return p.strip * p.ld / 2; }

void slice_tap(const ConvPlan& p, int64_t i) {
  const ConvGeometry& g = p.geometry;
  const int64_t m = i / g.taps(), t = i % g.taps();
  uint64_t* slice = p.panels + i * g.L();
  std::fill_n(slice, g.L(), uint64_t{0});
  for (int64_t c = 0; c < g.C; ++c) {
    const uint64_t bit = p.weight[(c * g.Kg() + m) * g.taps() + t] & 1;
    slice[c / kWordBits] |= bit << (c % kWordBits);
  }
}

void depthwise_conv(const ConvPlan& p, int64_t begin, int64_t end, uint64_t* scratch) {
  auto* dot = reinterpret_cast<int32_t*>(scratch);
  for (int64_t first = begin; first < end; first += p.strip) {
    const int64_t count = std::min(p.strip, end - first);
    depthwise_rows(p, first, count, dot);
    store_rows(p.epilogue, {.wide = dot, .ld = p.ld}, {first, count, 0, p.geometry.K});
  }
}

}  // namespace bnn::cpu
