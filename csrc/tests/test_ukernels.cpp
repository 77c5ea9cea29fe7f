// Every microkernel of ukernels.inc against the scalar one of the same name, on random sizes and values.
// Buffers are exactly as long as the contract says, so that a sanitizer build sees any access beyond.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <type_traits>
#include <vector>

#include "bnn/half.h"
#include "bnn/with_type.h"
#include "cpu/ukernels.h"

namespace bnn::cpu {
namespace {

std::mt19937_64 g_random(20240607);

int64_t up_to(int64_t n) { return static_cast<int64_t>(g_random() % static_cast<uint64_t>(n + 1)); }

int64_t some_channels() {
  constexpr int64_t kEdges[] = {1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200};
  return up_to(1) == 0 ? kEdges[up_to(16)] : 1 + up_to(300);
}

float some_float() {
  constexpr float kSpecial[] = {0.0f,     -0.0f, 1.0f,   -1.0f,     1e-40f,     -1e-40f,
                                65504.0f, 1e30f, -1e30f, HUGE_VALF, -HUGE_VALF, NAN};
  if (up_to(5) == 0) return kSpecial[up_to(11)];
  return std::normal_distribution<float>(0.0f, 1.0f)(g_random);
}

// Random, or all bits alike: what drives counters to their limit.
std::vector<uint64_t> words(int64_t n) {
  std::vector<uint64_t> out(static_cast<size_t>(n));
  const int64_t kind = up_to(5);
  for (uint64_t& w : out) w = kind > 1 ? g_random() : kind == 1 ? ~uint64_t{0} : 0;
  return out;
}

std::vector<int32_t> integers(int64_t n) {
  std::vector<int32_t> out(static_cast<size_t>(n));
  for (int32_t& v : out) v = static_cast<int32_t>(up_to(4000)) - 2000;
  return out;
}

std::vector<float> floats(int64_t n) {
  std::vector<float> out(static_cast<size_t>(n));
  for (float& v : out) v = some_float();
  return out;
}

// Elements of a dtype, random or zero.
struct Elements {
  DType dtype;
  std::vector<char> bytes;

  Elements(DType t, int64_t n, bool random = true) : dtype(t), bytes(static_cast<size_t>(n) * size_of(t)) {
    if (!random) return;
    with_type(t, [&](auto tag) {
      for (int64_t i = 0; i < n; ++i) {
        from_float(some_float(), tag);
        std::memcpy(bytes.data() + i * static_cast<int64_t>(sizeof(tag)), &tag, sizeof(tag));
      }
    });
  }

  Span span() { return {bytes.data(), dtype}; }
  ConstSpan view() const { return {bytes.data(), dtype}; }
};

DType some_float_type() { return static_cast<DType>(up_to(2)); }
Surrogate some_surrogate() { return static_cast<Surrogate>(up_to(1)); }

// Equal bit for bit, but any NaN equals any NaN.
bool same(const Elements& a, const Elements& b) {
  if (a.dtype == DType::i8) return a.bytes == b.bytes;
  bool equal = true;
  with_type(a.dtype, [&](auto tag) {
    const size_t n = a.bytes.size() / sizeof(tag);
    for (size_t i = 0; i < n; ++i) {
      auto p = tag, q = tag;
      std::memcpy(&p, a.bytes.data() + i * sizeof(tag), sizeof(tag));
      std::memcpy(&q, b.bytes.data() + i * sizeof(tag), sizeof(tag));
      const float x = to_float(p), y = to_float(q);
      equal &= std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y) || (std::isnan(x) && std::isnan(y));
    }
  });
  return equal;
}

bool check(ukernel::bgemm* f, ukernel::bgemm* truth) {
  const int64_t pixels = up_to(20), n = 1 + up_to(80), ld = 16 + up_to(40), column = up_to(9);
  const auto a = words(pixels * n), panel = words(n * kPanel);
  const auto table = integers(2 * (column + kPanel));
  std::vector<const int32_t*> base;
  for (int64_t p = 0; p < pixels; ++p) base.push_back(table.data() + up_to(1) * (column + kPanel));
  std::vector<int32_t> x(static_cast<size_t>(pixels * ld)), y = x;
  f(a.data(), pixels, n, panel.data(), base.data(), column, x.data(), ld);
  truth(a.data(), pixels, n, panel.data(), base.data(), column, y.data(), ld);
  return x == y;
}

bool check(ukernel::bgemv* f, ukernel::bgemv* truth) {
  const int64_t n = 1 + up_to(40), filters = up_to(40);
  const auto a = words(n), w = words(n * filters);
  std::vector<int32_t> x(static_cast<size_t>(filters)), y = x;
  f(a.data(), w.data(), n, filters, 1234, x.data());
  truth(a.data(), w.data(), n, filters, 1234, y.data());
  return x == y;
}

bool check(ukernel::counters_to_dot* f, ukernel::counters_to_dot* truth) {
  const int count = static_cast<int>(up_to(20));
  const auto planes = words(count);
  std::vector<int32_t> x(kWordBits), y = x;
  f(planes.data(), count, 321, x.data());
  truth(planes.data(), count, 321, y.data());
  return x == y;
}

bool check(ukernel::bitpack* f, ukernel::bitpack* truth) {
  const int64_t rows = up_to(5), channels = some_channels();
  const Elements v(some_float_type(), rows * channels);
  const auto shift = floats(channels);
  const float* s = up_to(1) == 0 ? shift.data() : nullptr;
  auto x = words(rows * words_for(channels)), y = words(rows * words_for(channels));
  f(v.view(), s, rows, channels, x.data());
  truth(v.view(), s, rows, channels, y.data());
  return x == y;
}

bool check(ukernel::bitunpack* f, ukernel::bitunpack* truth) {
  const int64_t rows = up_to(5), channels = some_channels();
  const auto w = words(rows * words_for(channels));
  const auto type = static_cast<DType>(up_to(3));
  Elements x(type, rows * channels, false), y = x;
  f(w.data(), rows, channels, x.span());
  truth(w.data(), rows, channels, y.span());
  return same(x, y);
}

bool check(ukernel::sign_ste* f, ukernel::sign_ste* truth) {
  const int64_t rows = up_to(5), channels = some_channels();
  const Elements v(some_float_type(), rows * channels);
  const auto shift = floats(channels);
  const float* s = up_to(1) == 0 ? shift.data() : nullptr;
  Elements x(v.dtype, rows * channels, false), y = x;
  f(v.view(), s, rows, channels, x.span());
  truth(v.view(), s, rows, channels, y.span());
  return same(x, y);
}

bool check(ukernel::sign_ste_backward* f, ukernel::sign_ste_backward* truth) {
  const int64_t rows = up_to(5), channels = some_channels();
  const Elements v(some_float_type(), rows * channels), grad(v.dtype, rows * channels);
  const auto shift = floats(channels);
  const float* s = up_to(1) == 0 ? shift.data() : nullptr;
  const Surrogate surrogate = some_surrogate();
  Elements x(v.dtype, rows * channels, false), y = x;
  f(grad.view(), v.view(), s, surrogate, rows, channels, x.span());
  truth(grad.view(), v.view(), s, surrogate, rows, channels, y.span());
  return same(x, y);
}

int64_t residue_bytes(Surrogate surrogate, int64_t rows, int64_t channels) {
  return surrogate == Surrogate::clip ? rows * words_for(channels) * 8 : rows * channels;
}

bool check(ukernel::ste_residue* f, ukernel::ste_residue* truth) {
  const int64_t rows = up_to(5), channels = some_channels();
  const Elements v(some_float_type(), rows * channels);
  const auto shift = floats(channels);
  const float* s = up_to(1) == 0 ? shift.data() : nullptr;
  const Surrogate surrogate = some_surrogate();
  auto x = words(rows * words_for(channels)), y = words(rows * words_for(channels));
  Elements p(DType::i8, residue_bytes(surrogate, rows, channels), false), q = p;
  f(v.view(), s, surrogate, rows, channels, x.data(), p.bytes.data());
  truth(v.view(), s, surrogate, rows, channels, y.data(), q.bytes.data());
  return x == y && same(p, q);
}

bool check(ukernel::ste_residue_backward* f, ukernel::ste_residue_backward* truth) {
  const int64_t rows = up_to(5), channels = some_channels();
  const Elements grad(some_float_type(), rows * channels);
  const Surrogate surrogate = some_surrogate();
  Elements residue(DType::i8, residue_bytes(surrogate, rows, channels), false);
  for (char& byte : residue.bytes) byte = static_cast<char>(g_random());
  Elements x(grad.dtype, rows * channels, false), y = x;
  f(grad.view(), residue.bytes.data(), surrogate, rows, channels, x.span());
  truth(grad.view(), residue.bytes.data(), surrogate, rows, channels, y.span());
  return same(x, y);
}

// Sums of either width
struct SomeDots {
  std::vector<int32_t> wide;
  std::vector<int16_t> narrow;
  int64_t ld;

  SomeDots(std::vector<int32_t> sums, int64_t columns) : wide(std::move(sums)), ld(columns) {
    if (up_to(1) == 0) return;
    for (int32_t v : wide) narrow.push_back(static_cast<int16_t>(std::clamp(v, -32768, 32767)));
  }

  Dots view() const { return {wide.data(), narrow.empty() ? nullptr : narrow.data(), ld}; }
};

// Of K channels all, or a word and what is behind it
OutputPart some_part(int64_t row, int64_t rows, int64_t K) {
  const int64_t channel = up_to((K - 1) / kWordBits) * kWordBits;
  return {row, rows, channel, up_to(1) == 0 ? K - channel : std::min<int64_t>(K - channel, kWordBits)};
}

bool check_scaled(ukernel::epilogue_scaled* f, ukernel::epilogue_scaled* truth) {
  const int64_t row = up_to(2), rows = up_to(4), K = up_to(1) == 0 ? 64 * (1 + up_to(2)) : some_channels();
  const int64_t ld = K + up_to(20);
  const SomeDots dots(integers(rows * ld), ld);
  const OutputPart part = some_part(row, rows, K);
  const auto alpha = floats(K);
  Elements x(some_float_type(), (row + rows) * K, false), y = x;
  Epilogue e;
  e.channels = K;
  e.alpha = up_to(1) == 0 ? alpha.data() : nullptr;
  e.y = x.span();
  f(e, dots.view(), part);
  e.y = y.span();
  truth(e, dots.view(), part);
  return same(x, y);
}

bool check_fused(ukernel::epilogue_fused* f, ukernel::epilogue_fused* truth) {
  const int64_t row = up_to(2), rows = up_to(4), K = up_to(1) == 0 ? 64 * (1 + up_to(2)) : some_channels();
  const int64_t ld = K + up_to(20);
  const SomeDots dots(integers(rows * ld), ld);
  const OutputPart part = some_part(row, rows, K);
  const auto scale = floats(K), bias = floats(K), rprelu = floats(3 * K), shift = floats(K);
  const Elements residual(some_float_type(), (row + rows) * K);
  Epilogue e;
  e.channels = K;
  e.scale = scale.data();
  e.bias = bias.data();
  if (up_to(1) == 0) e.residual = residual.view();
  if (up_to(1) == 0) e.rprelu = rprelu.data();
  if (up_to(1) == 0) e.next_shift = shift.data();
  const bool stream = up_to(1) == 0, packed = !stream || up_to(1) == 0;
  Elements x(up_to(1) == 0 ? residual.dtype : some_float_type(), (row + rows) * K, false), y = x;
  std::vector<uint64_t> p(static_cast<size_t>((row + rows) * words_for(K))), q = p;
  if (stream) e.stream = x.span();
  if (packed) e.words = p.data();
  f(e, dots.view(), part);
  if (stream) e.stream = y.span();
  if (packed) e.words = q.data();
  truth(e, dots.view(), part);
  return same(x, y) && p == q;
}

// Many rows of words alone, with signs that change inside the range of the sums, on halves and near them, also where
// float32 skips integers.
bool check_signs(ukernel::epilogue_fused* f, ukernel::epilogue_fused* truth) {
  const int64_t rows = 30 + up_to(50), K = 64 * (1 + up_to(2)), ld = K + up_to(20);
  std::vector<int32_t> dot(static_cast<size_t>(rows * ld));
  const int64_t range = 1 + up_to(300), center = up_to(3) == 0 ? (int64_t{1} << (22 + up_to(4))) + up_to(8) : 0;
  for (int32_t& v : dot) v = static_cast<int32_t>(center + up_to(2 * range) - range);
  std::vector<float> scale(K), bias(K), shift(K);
  for (int64_t k = 0; k < K; ++k) {
    const int64_t kind = up_to(200);
    scale[k] = kind == 0 && center == 0   ? some_float()
               : kind < 80 || center != 0 ? 0.5f
                                          : std::normal_distribution<float>(0.0f, 0.1f)(g_random);
    if (up_to(1) == 0) scale[k] = -scale[k];
    bias[k] = 0.25f * static_cast<float>(up_to(4 * range) - 2 * range);
    if (center != 0) bias[k] = -scale[k] * static_cast<float>(center + up_to(range) - range / 2);
    shift[k] = kind == 1 ? some_float() : std::abs(scale[k]) == 0.5f ? 0.0f : static_cast<float>(up_to(8)) - 4.0f;
  }
  const SomeDots dots(dot, ld);
  const OutputPart part{0, rows, 0, K};
  Epilogue e;
  e.channels = K, e.scale = scale.data(), e.bias = bias.data();
  if (up_to(3) != 0) e.next_shift = shift.data();
  std::vector<uint64_t> p(static_cast<size_t>(rows * words_for(K))), q = p;
  e.words = p.data();
  f(e, dots.view(), part);
  e.words = q.data();
  truth(e, dots.view(), part);
  if (p != q) return false;
  // Limits say the same.
  int32_t limits[kWordBits];
  uint64_t falling;
  e.kind = Epilogue::Kind::fused;
  for (int64_t c = 0; c < K; c += kWordBits) {
    if (!ukernels().sign_limits(e, c, limits, &falling)) continue;
    for (int64_t i = 0; i < rows * kWordBits; ++i) {
      const int64_t k = i % kWordBits, at = i / kWordBits * ld + c + k;
      const int32_t v = dots.narrow.empty() ? dots.wide[at] : dots.narrow[at];
      const bool bit = (v < limits[k]) != ((falling >> k & 1) != 0);
      if (bit != ((p[i / kWordBits * words_for(K) + c / kWordBits] >> k & 1) != 0)) return false;
    }
  }
  return true;
}

// Checked where they are used, above
bool check(ukernel::sign_limits*, ukernel::sign_limits*) { return true; }

bool check(ukernel::accumulate* f, ukernel::accumulate* truth) {
  const int64_t n = up_to(70);
  const Elements v(some_float_type(), n);
  Elements x(DType::f32, n), y = x;
  f(v.view(), n, reinterpret_cast<float*>(x.bytes.data()));
  truth(v.view(), n, reinterpret_cast<float*>(y.bytes.data()));
  return same(x, y);
}

bool check(ukernel::round_store* f, ukernel::round_store* truth) {
  const int64_t n = up_to(70);
  const auto v = floats(n);
  Elements x(some_float_type(), n, false), y = x;
  f(v.data(), n, x.span());
  truth(v.data(), n, y.span());
  return same(x, y);
}

// Sorted, overlapping bins over W positions
struct SomeBins {
  std::vector<int32_t> start, end;
  int64_t W = 1 + up_to(20);
  int64_t stride_extra = up_to(3);

  PoolBins view() {
    const int64_t count = 1 + up_to(W - 1);
    for (int64_t j = 0; j < count; ++j) {
      start.push_back(static_cast<int32_t>(j * W / count));
      end.push_back(static_cast<int32_t>(ceil_div((j + 1) * W, count)));
    }
    return {start.data(), end.data(), count, 1 + up_to(5)};
  }
};

bool check(ukernel::average_bins* f, ukernel::average_bins* truth) {
  SomeBins some;
  const PoolBins bins = some.view();
  const int64_t width = 1 + up_to(40), stride = width + some.stride_extra;
  const auto row = floats(some.W * width);
  Elements x(some_float_type(), bins.count * stride - some.stride_extra, false), y = x;
  f(bins, row.data(), width, x.span(), stride);
  truth(bins, row.data(), width, y.span(), stride);
  return same(x, y);
}

bool check(ukernel::spread_bins* f, ukernel::spread_bins* truth) {
  SomeBins some;
  const PoolBins bins = some.view();
  const int64_t width = 1 + up_to(40), stride = width + some.stride_extra;
  const Elements grad(some_float_type(), bins.count * stride - some.stride_extra);
  Elements x(DType::f32, some.W * width), y = x;
  f(bins, grad.view(), stride, width, reinterpret_cast<float*>(x.bytes.data()));
  truth(bins, grad.view(), stride, width, reinterpret_cast<float*>(y.bytes.data()));
  return same(x, y);
}

bool check(ukernel::tile_rows* f, ukernel::tile_rows*) {
  for (int rows : {1, 7, kTileRows, 0}) f(rows);
  return true;
}

bool check(ukernel::expand_pixels* f, ukernel::expand_pixels* truth) {
  const int64_t pixels = up_to(5), channels = some_channels(), step = words_for(channels) + up_to(3);
  const auto w = words(pixels * step);
  std::vector<uint8_t> x(static_cast<size_t>(pixels * channels)), y = x;
  std::vector<int16_t> p(static_cast<size_t>(pixels)), q = p;
  f(w.data(), step, pixels, channels, x.data(), p.data());
  truth(w.data(), step, pixels, channels, y.data(), q.data());
  return x == y && p == q;
}

bool check(ukernel::count_window* f, ukernel::count_window* truth) {
  const int64_t rows = up_to(100), reach = up_to(300);
  std::vector<int64_t> taps(static_cast<size_t>(1 + up_to(9)));
  for (int64_t& t : taps) t = up_to(reach);
  std::vector<int16_t> ones(static_cast<size_t>(reach + rows + kTogether));
  for (int16_t& v : ones) v = static_cast<int16_t>(up_to(32766));
  std::vector<int32_t> x(static_cast<size_t>(rows + kTogether)), y = x;
  const auto count = static_cast<int64_t>(taps.size());
  f(ones.data(), taps.data(), count, rows, x.data());
  truth(ones.data(), taps.data(), count, rows, y.data());
  return std::equal(x.begin(), x.begin() + rows, y.begin());
}

// Filters of some density of ones: full, more than half, less than half or half of the bits
struct SomeFilters {
  int64_t taps = 1 + up_to(8), tap_words = 1 + up_to(3), steps = taps * tap_words, stride = steps + up_to(3);
  int64_t filters = 1 + up_to(3 * kWordBits - 1);
  std::vector<uint64_t> rows = words(filters * stride), valid = words(steps);
  std::vector<int64_t> place;
  bool all_valid = up_to(1) == 0;

  SomeFilters() : place(static_cast<size_t>(steps)) {
    std::iota(place.begin(), place.end(), 0);
    std::shuffle(place.begin(), place.end(), g_random);
    const int64_t density = up_to(4);
    for (uint64_t& word : rows) {
      if (density < 2) word |= density == 0 ? ~uint64_t{0} : g_random();
      if (density == 2) word &= g_random();
    }
  }

  int64_t panels() const { return ceil_div(filters, kWordBits); }

  FilterWords panel(int64_t i) const {
    const int64_t first = i * kWordBits;
    return {rows.data() + first * stride,
            stride,
            std::min<int64_t>(kWordBits, filters - first),
            steps,
            place.data(),
            all_valid ? nullptr : valid.data(),
            tap_words};
  }
};

// Memory of panels, one after the other: codes, ones, groups; then base, limited, falling
struct SomePanels {
  const SomeFilters& some;
  int64_t packed_step, bounds_step;  // bytes
  std::vector<uint64_t> packed, bounds;

  explicit SomePanels(const SomeFilters& filters)
      : some(filters),
        packed_step(some.steps * 2 * kCodeWords * 8 + some.taps * kWordBits * 2 + ceil_div(some.steps, 8) * 8),
        bounds_step(2 * kWordBits * 2 + 16),
        packed(static_cast<size_t>(some.panels() * packed_step / 8)),
        bounds(static_cast<size_t>(some.panels() * bounds_step / 8)) {}

  PackedPanel panel(int64_t i) {
    uint64_t* codes = packed.data() + i * packed_step / 8;
    uint64_t* ones = codes + some.steps * 2 * kCodeWords;
    auto* groups = reinterpret_cast<uint8_t*>(ones + some.taps * kWordBits / 4);
    return {codes, groups, reinterpret_cast<int16_t*>(ones)};
  }

  int16_t* base(int64_t i) { return reinterpret_cast<int16_t*>(bounds.data() + i * bounds_step / 8); }
  uint64_t* falling(int64_t i) { return bounds.data() + (i + 1) * bounds_step / 8 - 1; }
  uint8_t* limited(int64_t i) { return reinterpret_cast<uint8_t*>(falling(i) - 1); }
};

bool check(ukernel::pack_filters* f, ukernel::pack_filters* truth) {
  const SomeFilters some;
  SomePanels x(some), y(some);
  std::vector<uint8_t> counts(static_cast<size_t>(some.steps * kWordBits));
  for (int64_t i = 0; i < some.panels(); ++i) {
    f(some.panel(i), x.panel(i), counts.data());
    truth(some.panel(i), y.panel(i), counts.data());
  }
  return x.packed == y.packed;
}

// What the second filter's sum is found by
bool check_inverse() {
  for (int s = 0; s <= kMostOnes; ++s) {
    for (int second = 0; second <= kMostOnes; ++second) {
      const int sum = s + kSecond * second;
      if (sum >= 1 << 16 || sum * kInverse >> 16 != second) return false;
    }
  }
  return true;
}

// What leaves tile_products, in the order of tiles and filters
struct Finished {
  int rows;
  int64_t panels;
  std::vector<int16_t> dot, all;

  Finished(int tile_rows, int64_t tiles, int64_t panel_count)
      : rows(tile_rows),
        panels(panel_count),
        dot(static_cast<size_t>(kTilesTogether * kTileRows * kWordBits)),
        all(static_cast<size_t>(tiles * rows * panels * kWordBits)) {}

  static void take(void* to, int64_t panel, int64_t tile, int64_t count) {
    auto& f = *static_cast<Finished*>(to);
    for (int64_t r = 0; r < count * f.rows; ++r) {
      std::copy_n(f.dot.data() + r * kWordBits, kWordBits,
                  f.all.data() + ((tile * f.rows + r) * f.panels + panel) * kWordBits);
    }
  }
};

bool check(ukernel::tile_products* f, ukernel::tile_products* truth) {
  const SomeFilters some;
  const int rows = 1 + static_cast<int>(up_to(kTileRows - 1));
  SomePanels panels(some);
  int64_t most_groups = 0;
  std::vector<uint8_t> counts(static_cast<size_t>(some.steps * kWordBits));
  for (int64_t i = 0; i < some.panels(); ++i) {
    const PackedPanel panel = panels.panel(i);
    scalar::pack_filters(some.panel(i), panel, counts.data());
    for (int k = 0; k < 2 * kWordBits; ++k) panels.base(i)[k] = static_cast<int16_t>(g_random());
    *panels.limited(i) = some.filters % kWordBits == 0 && up_to(1) == 0;
    *panels.falling(i) = g_random();
    most_groups = std::max<int64_t>(most_groups, std::count(panel.groups, panel.groups + some.steps, 1));
  }
  const PackedPanel packed = panels.panel(0);
  const TilePanel first{packed.codes, packed.groups, panels.base(0), panels.limited(0), panels.falling(0)};
  const int64_t tiles = 1 + up_to((most_groups > 2 ? 1 : 3) * kJobTiles - 1), positions = 20;
  const int64_t pitch = 1 + up_to(200), reach = up_to(300);
  std::vector<int64_t> starts(tiles), offsets(some.steps);
  std::generate(starts.begin(), starts.end(), [&] { return up_to(positions); });
  std::generate(offsets.begin(), offsets.end(), [&] { return up_to(reach); });
  std::vector<uint8_t> bytes(static_cast<size_t>(reach + (positions + rows - 1) * pitch + 64));
  const bool full = up_to(2) == 0;
  for (uint8_t& b : bytes) b = full ? 1 : static_cast<uint8_t>(up_to(1));
  std::vector<int32_t> row_base(static_cast<size_t>(positions + rows)), row_add = row_base;
  for (int32_t& v : row_base) v = static_cast<int32_t>(up_to(1)) * kWordBits;
  for (int32_t& v : row_add) v = static_cast<int32_t>(up_to(65535) * 0x10001);
  std::vector<int32_t> row_word(row_base.size());
  for (size_t i = 0; i < row_word.size(); ++i) {
    row_word[i] = up_to(3) == 0 ? -1 : static_cast<int32_t>(static_cast<int64_t>(i) * 2 * some.panels());
  }
  const auto run = [&](ukernel::tile_products* g) {
    Finished out(rows, tiles, some.panels());
    std::vector<uint32_t> words(row_word.size() * 2 * static_cast<size_t>(some.panels()));
    g({bytes.data(), starts.data(), tiles, rows, pitch, offsets.data(), row_base.data(), row_add.data(),
       row_word.data(), some.steps, some.filters, first, panels.packed_step, panels.bounds_step, out.dot.data(),
       Finished::take, &out, words.data()});
    // Behind 32 filters or fewer of the last panel is nothing.
    const int64_t columns = ceil_div(some.filters, kTileFilters) * kTileFilters, ld = some.panels() * kWordBits;
    for (int64_t r = 0; r < tiles * rows; ++r) std::fill_n(out.all.data() + r * ld + columns, ld - columns, int16_t{0});
    return std::pair(out.all, words);
  };
  ukernels().tile_rows(rows);  // of the highest ISA: the one with the unit, where there is one
  const auto found = run(f);
  ukernels().tile_rows(0);
  return found == run(truth);
}

// The two epilogues have one function type.
bool check_epilogue_scaled(ukernel::epilogue_scaled* f) { return check_scaled(f, scalar::epilogue_scaled); }
bool check_epilogue_fused(ukernel::epilogue_fused* f) {
  return check_fused(f, scalar::epilogue_fused) && check_signs(f, scalar::epilogue_fused);
}

template <class F>
bool check_named(const char* op, F* f, F* truth) {
  if constexpr (std::is_same_v<F, ukernel::epilogue_fused>) {
    return std::strcmp(op, "epilogue_fused") == 0 ? check_epilogue_fused(f) : check_epilogue_scaled(f);
  } else {
    return check(f, truth);
  }
}

bool available(Isa isa) {
  for (Isa i : isa_available()) {
    if (i == isa) return true;
  }
  return false;
}

template <class F>
int run(Isa isa, const char* op, F* f, F* truth, int rounds) {
  if (!available(isa)) {
    std::printf("%s %s: skipped, this machine lacks it\n", std::string(isa_name(isa)).c_str(), op);
    return 0;
  }
  for (int i = 0; i < rounds; ++i) {
    if (check_named(op, f, truth)) continue;
    std::printf("%s %s: differs from scalar in round %d\n", std::string(isa_name(isa)).c_str(), op, i);
    return 1;
  }
  std::printf("%s %s: ok\n", std::string(isa_name(isa)).c_str(), op);
  return 0;
}

}  // namespace
}  // namespace bnn::cpu

int main(int argc, char** argv) {
  using namespace bnn::cpu;
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 300;
  int failures = check_inverse() ? 0 : 1;
#define BNN_UKERNEL(isa, op) failures += run(Isa::isa, #op, &isa::op, &scalar::op, rounds);
#include "cpu/ukernels.inc"
#undef BNN_UKERNEL
  return failures == 0 ? 0 : 1;
}
