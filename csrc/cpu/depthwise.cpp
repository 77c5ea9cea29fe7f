#include "cpu/depthwise.h"

#include <algorithm>
#include <numeric>

#include "bnn/epilogue.h"
#include "cpu/conv_rows.h"
#include "cpu/parts.h"
#include "cpu/ukernels.h"

namespace bnn::cpu {
namespace {

constexpr int64_t kStripBytes = 24 * 1024;  // dot products of a strip stay in L1
constexpr int64_t kMostLanes = 8;           // words of a vector

// Words after which filters repeat: where a pixel has few, a vector holds those of neighbours.
int64_t period_of(const ConvGeometry& g) { return g.L() < kMostLanes ? std::lcm(g.L(), kMostLanes) : g.L(); }

// Neighbours' words can be taken as those of one long pixel.
bool neighbours_join(const ConvGeometry& g) { return g.stride_w == 1 && period_of(g) % kMostLanes == 0; }

const uint64_t* slices_of(const ConvPlan& p) { return p.packed.words == nullptr ? p.panels : p.packed.words; }

// Signs of 64 channels from their mismatches, see DepthwiseProducts
struct Limits {
  uint64_t* bits;    // [kLimitBits, period]
  uint64_t* flips;   // [period]
  uint8_t* limited;  // [L] whether a word's limits are there

  Limits(const ConvGeometry& g, Parts& parts)
      : bits(parts.take<uint64_t>(kLimitBits * period_of(g))),
        flips(parts.take<uint64_t>(period_of(g))),
        limited(parts.take<uint8_t>(g.L())) {}
};

Limits limits_of(const ConvPlan& p) {
  Parts parts(p.packed.words == nullptr ? p.panels + depthwise_packed_words(p.geometry) : p.panels);
  return {p.geometry, parts};
}

// Bit j of byte i becomes bit i of byte j.
uint64_t transposed(uint64_t bits) {
  const auto swap = [&](int distance, uint64_t mask) {
    const uint64_t differing = (bits ^ bits >> distance) & mask;
    bits ^= differing ^ differing << distance;
  };
  swap(7, 0x00aa00aa00aa00aa);
  swap(14, 0x0000cccc0000cccc);
  swap(28, 0x00000000f0f0f0f0);
  return bits;
}

bool may_limit(const ConvGeometry& g) { return g.Kg() == 1 && g.taps() <= kMostLimitedTaps; }

bool limited(const ConvPlan& p) {
  const uint8_t* all = limits_of(p).limited;
  return std::all_of(all, all + p.geometry.L(), [](uint8_t of_word) { return of_word != 0; });
}

struct Workspace {
  int64_t* at;       // [taps]
  int64_t* filters;  // [taps]
  uint64_t* planes;  // [plane_count, strip * L]
  int32_t* dot;      // [strip, ld]

  Workspace(const ConvPlan& p, Parts& parts)
      : at(parts.take<int64_t>(p.geometry.taps())),
        filters(parts.take<int64_t>(p.geometry.taps())),
        planes(parts.take<uint64_t>(plane_count(p.geometry.taps()) * p.strip * p.geometry.L())),
        dot(parts.take<int32_t>(p.strip * p.ld)) {}
};

// Products of output pixels [first, first + count), as many neighbours at a time as may be: f(products, pixels)
template <class F>
void for_each_product(const ConvPlan& p, const Workspace& w, int64_t first, int64_t count, F&& f) {
  const ConvGeometry& g = p.geometry;
  const int64_t L = g.L();
  DepthwiseProducts q{};
  q.at = w.at, q.filters = w.filters, q.slices = slices_of(p), q.period = period_of(g);
  q.fill = g.pad_value < 0 ? ~uint64_t{0} : 0;
  for_each_piece(p, first, count, [&](int64_t n, int64_t oh, int64_t ow, int64_t pixels) {
    const TapRange rows = p.rows.inside[p.rows.of[oh]], columns = p.columns.inside[p.columns.of[ow]];
    const int64_t top = oh * g.stride_h - g.pad_h, left = ow * g.stride_w - g.pad_w;
    q.taps = 0;
    for (int64_t r = 0, filter = 0; r < g.R; ++r) {
      const int64_t row = (n * g.H + top + r * g.dilation_h) * g.W + left;
      for (int64_t s = 0; s < g.S; ++s, filter += q.period) {
        const bool inside = rows.contains(r) && columns.contains(s);
        if (!inside && g.pad_value == 0) continue;
        w.at[q.taps] = inside ? (row + s * g.dilation_w) * L : kOutside;
        w.filters[q.taps++] = filter;
      }
    }
    q.outside = g.taps() - q.taps;
    const int64_t together = neighbours_join(g) ? pixels : 1;
    q.words = together * L;
    q.x = p.x;
    for (int64_t i = 0; i < pixels; i += together, q.x += g.stride_w * L) f(q, together);
  });
}

// Words alone, straight from the counters
void sign_words(const ConvPlan& p, const Workspace& w, int64_t first, int64_t count) {
  const Limits limits = limits_of(p);
  uint64_t* to = p.epilogue.words + first * p.geometry.L();
  for_each_product(p, w, first, count, [&](DepthwiseProducts& q, int64_t) {
    q.limits = limits.bits, q.flips = limits.flips, q.to = to;
    ukernels().depthwise_products(q);
    to += q.words;
  });
}

// dot [count, ld]; filter c * multiplier + m reads channel c.
void depthwise_dots(const ConvPlan& p, const Workspace& w, int64_t first, int64_t count) {
  const ConvGeometry& g = p.geometry;
  const Ukernels& k = ukernels();
  const int64_t L = g.L(), multiplier = g.Kg();
  const int planes = plane_count(g.taps());
  int32_t* dot = w.dot;
  for_each_product(p, w, first, count, [&](DepthwiseProducts& q, int64_t pixels) {
    const auto taps = static_cast<int32_t>(q.taps);
    q.planes = w.planes;
    for (int64_t m = 0; m < multiplier; ++m) {
      q.slices = slices_of(p) + m * g.taps() * q.period;
      k.depthwise_products(q);
      for (int64_t i = 0; i < pixels; ++i) {
        for (int64_t l = 0; l < L; ++l) {
          int32_t lanes[kWordBits], *row = dot + i * p.ld;
          int32_t* to = multiplier == 1 ? row + l * kWordBits : lanes;
          k.counters_to_dot(q.planes + i * L + l, q.words, planes, taps, to);
          if (multiplier == 1) continue;
          const int64_t channels = std::min<int64_t>(kWordBits, g.C - l * kWordBits);
          for (int64_t c = 0; c < channels; ++c) row[(l * kWordBits + c) * multiplier + m] = lanes[c];
        }
      }
    }
    dot += pixels * p.ld;
  });
}

}  // namespace

void plan_depthwise(ConvPlan& p) {
  p.ld = words_for(p.geometry.K) * kWordBits;
  p.strip = std::clamp<int64_t>(kStripBytes / (p.ld * 4), 8, 256);
}

int64_t depthwise_packed_words(const ConvGeometry& g) { return g.Kg() * g.taps() * period_of(g); }

void pack_depthwise(const BinaryConv2d& p, int64_t l, uint64_t* packed) {
  const ConvGeometry& g = p.geometry;
  const int64_t channels = std::min<int64_t>(kWordBits, g.C - l * kWordBits), period = period_of(g);
  for (int64_t i = 0; i < g.Kg() * g.taps(); ++i, packed += period) {
    const uint64_t* tap = p.weight + (l * kWordBits * g.Kg() + i / g.taps()) * g.taps() + i % g.taps();
    uint64_t word = 0;
    for (int64_t c = 0; c < channels; ++c) word |= (tap[c * g.Kg() * g.taps()] & 1) << c;
    for (int64_t at = l; at < period; at += g.L()) packed[at] = word;
  }
}

int64_t depthwise_panels_words(const ConvPlan& p) {
  Parts parts;
  static_cast<void>(Limits(p.geometry, parts));
  return (p.packed.words == nullptr ? depthwise_packed_words(p.geometry) : 0) + parts.bytes() / 8;
}

int64_t depthwise_scratch_words(const ConvPlan& p) {
  Parts parts;
  static_cast<void>(Workspace(p, parts));
  return parts.bytes() / 8;
}

void prepare_depthwise(const ConvPlan& p, int64_t l) {
  const ConvGeometry& g = p.geometry;
  if (p.packed.words == nullptr) pack_depthwise(p, l, p.panels);
  const Limits to = limits_of(p);
  int32_t limits[kWordBits];
  uint64_t falling = 0;
  to.limited[l] = may_limit(g) && ukernels().sign_limits(p.epilogue, l * kWordBits, limits, &falling);
  if (to.limited[l] == 0) return;
  // taps inside - 2 m < limit where 2 m + taps outside >= taps - limit + 1
  const int64_t most = 2 * g.taps(), channels = std::min<int64_t>(kWordBits, g.C - l * kWordBits);
  uint64_t bits[kLimitBits] = {};
  for (int64_t eight = 0; eight < kWordBits; eight += 8) {
    uint64_t bytes = 0;
    for (int64_t c = 0; c < 8; ++c) {
      const int64_t least = std::max<int64_t>(0, g.taps() - limits[eight + c] + 1);
      const int64_t limit = least > most || eight + c >= channels ? kNever : least;
      bytes |= static_cast<uint64_t>(limit) << 8 * c;
    }
    bytes = transposed(bytes);
    for (int b = 0; b < kLimitBits; ++b) bits[b] |= (bytes >> 8 * b & 0xff) << eight;
  }
  for (int64_t at = l; at < period_of(g); at += g.L()) {
    for (int b = 0; b < kLimitBits; ++b) to.bits[b * period_of(g) + at] = bits[b];
    to.flips[at] = falling;
  }
}

void depthwise_conv(const ConvPlan& p, int64_t begin, int64_t end, uint64_t* scratch) {
  Parts parts(scratch);
  const Workspace w(p, parts);
  if (limited(p)) return sign_words(p, w, begin, end - begin);
  for (int64_t first = begin; first < end; first += p.strip) {
    const int64_t count = std::min(p.strip, end - first);
    depthwise_dots(p, w, first, count);
    store_rows(p.epilogue, {.wide = w.dot, .ld = p.ld}, {first, count, 0, p.geometry.K});
  }
}

}  // namespace bnn::cpu
