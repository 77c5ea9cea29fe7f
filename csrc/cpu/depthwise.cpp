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

// Slice m taps + t: bits of tap t of filters m, m + K / C, .. of every channel
int64_t slice_words(const ConvGeometry& g) { return g.Kg() * g.taps() * period_of(g); }

uint64_t* slices_of(const ConvPlan& p) {
  return p.packed.words == nullptr ? p.panels : const_cast<uint64_t*>(p.packed.words);  // nobody writes to those
}

// Signs of 64 channels from their mismatches, see DepthwiseWords
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
  Parts parts(p.packed.words == nullptr ? p.panels + slice_words(p.geometry) : p.panels);
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

bool may_limit(const ConvGeometry& g) {
  return g.Kg() == 1 && g.taps() <= kMostSignTaps && (g.pad_value == 0 || !g.padded());
}

bool limited(const ConvPlan& p) {
  const uint8_t* all = limits_of(p).limited;
  return std::all_of(all, all + p.geometry.L(), [](uint8_t of_word) { return of_word != 0; });
}

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
  const int64_t L = g.L(), step = g.dilation_w * L, row_step = g.dilation_h * g.W * L, period = period_of(g);
  const uint64_t outside = g.pad_value < 0 ? ~uint64_t{0} : 0;
  for (int64_t r = 0; r < g.R; ++r, slice += g.S * period) {
    const TapRange columns = px.rows.contains(r) ? px.columns : TapRange{0, 0};
    int64_t at = px.corner + r * row_step + columns.begin * step + l;
    for (int64_t s = columns.begin; s < columns.end; ++s, at += step) counters.add(p.x[at] ^ slice[s * period + l]);
    if (g.pad_value == 0) continue;
    for (int64_t s = 0; s < columns.begin; ++s) counters.add(outside ^ slice[s * period + l]);
    for (int64_t s = columns.end; s < g.S; ++s) counters.add(outside ^ slice[s * period + l]);
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
      const auto counters = count_taps<kPlanes>(p, px, l, slices_of(p) + m * g.taps() * period_of(g));
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

// Words alone, straight from the counters
void sign_words(const ConvPlan& p, int64_t first, int64_t count) {
  const ConvGeometry& g = p.geometry;
  const int64_t L = g.L(), period = period_of(g);
  const Limits limits = limits_of(p);
  int64_t at[kMostSignTaps], filters[kMostSignTaps];
  DepthwiseWords q{at, filters, 0, p.x, slices_of(p), limits.bits, limits.flips, period, 0, L, p.epilogue.words};
  q.to += first * L;
  const bool joined = neighbours_join(g);
  for_each_piece(p, first, count, [&](int64_t n, int64_t oh, int64_t ow, int64_t pixels) {
    const int64_t h = oh * g.stride_h - g.pad_h, w = ow * g.stride_w - g.pad_w;
    const TapRange rows = p.rows.inside[p.rows.of[oh]], columns = p.columns.inside[p.columns.of[ow]];
    q.taps = 0;
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      for (int64_t s = columns.begin; s < columns.end; ++s, ++q.taps) {
        at[q.taps] = ((n * g.H + h + r * g.dilation_h) * g.W + w + s * g.dilation_w) * L;
        filters[q.taps] = (r * g.S + s) * period;
      }
    }
    q.outside = g.taps() - q.taps;
    q.x = p.x;
    q.words = joined ? pixels * L : L;
    for (int64_t i = 0; i < (joined ? 1 : pixels); ++i, q.x += g.stride_w * L, q.to += q.words) {
      ukernels().depthwise_words(q);
    }
  });
}

}  // namespace

void plan_depthwise(ConvPlan& p) {
  p.ld = words_for(p.geometry.K) * kWordBits;
  p.strip = std::clamp<int64_t>(kStripBytes / (p.ld * 4), 8, 256);
}

int64_t depthwise_packed_words(const ConvGeometry& g) { return slice_words(g); }

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
  return (p.packed.words == nullptr ? slice_words(p.geometry) : 0) + parts.bytes() / 8;
}

int64_t depthwise_scratch_words(const ConvPlan& p) { return p.strip * p.ld / 2; }

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
  if (limited(p)) return sign_words(p, begin, end - begin);
  auto* dot = reinterpret_cast<int32_t*>(scratch);
  for (int64_t first = begin; first < end; first += p.strip) {
    const int64_t count = std::min(p.strip, end - first);
    depthwise_rows(p, first, count, dot);
    store_rows(p.epilogue, {.wide = dot, .ld = p.ld}, {first, count, 0, p.geometry.K});
  }
}

}  // namespace bnn::cpu
