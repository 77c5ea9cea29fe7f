// Every microkernel of ukernels.inc against the scalar one of the same name, on random sizes and values.
// Buffers are exactly as long as the contract says, so that a sanitizer build sees any access beyond.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <vector>

#include "cpu/ukernels.h"
#include "tests/check_bytes.h"
#include "tests/check_depthwise.h"
#include "tests/check_tiles.h"
#include "tests/elements.h"
#include "tests/random.h"

namespace bnn::cpu {
namespace {

Surrogate some_surrogate() { return static_cast<Surrogate>(up_to(1)); }

bool check(ukernel::bgemm* f, ukernel::bgemm* truth) {
  const int64_t pixels = up_to(20), runs = up_to(4), run = 1 + up_to(40), step = run + up_to(3);
  const int64_t panel_step = run + up_to(3), ld = 16 + up_to(40), bits_step = 2 + up_to(9);
  const auto a = words(pixels * runs * step), panel = words(runs * panel_step * kPanel);
  const auto base = integers(2 * kPanel);
  std::vector<const uint64_t*> windows;
  std::vector<int32_t> rows, row_base;
  for (int64_t p = 0; p < pixels; ++p) {
    row_base.push_back(static_cast<int32_t>(up_to(kPanel)));
    windows.push_back(a.data() + p * runs * step);
    rows.push_back(static_cast<int32_t>(p));
  }
  std::shuffle(rows.begin(), rows.end(), g_random);
  PanelProducts q{};
  q.windows = windows.data(), q.rows = up_to(1) == 0 ? rows.data() : nullptr;
  q.pixels = pixels, q.runs = runs, q.run = run, q.step = step;
  q.panel = panel.data(), q.panel_step = panel_step, q.base = base.data(), q.row_base = row_base.data();
  q.ld = ld, q.bits_step = bits_step, q.falling = static_cast<uint16_t>(up_to(0xffff));
  std::vector<int32_t> x(static_cast<size_t>(pixels * ld)), y = x;
  std::vector<uint8_t> u(static_cast<size_t>(pixels * bits_step)), v = u;
  const auto both = [&q](ukernel::bgemm* g, std::vector<int32_t>& dot, std::vector<uint8_t>& bits) {
    q.dot = dot.data(), q.bits = nullptr;
    g(q);
    q.bits = bits.data();
    g(q);
  };
  both(f, x, u);
  both(truth, y, v);
  return x == y && u == v;
}

bool check(ukernel::bgemv* f, ukernel::bgemv* truth) {
  const int64_t n = 1 + up_to(40), filters = up_to(40);
  const auto a = words(n), w = words(n * filters);
  std::vector<int32_t> x(static_cast<size_t>(filters)), y = x;
  f(a.data(), w.data(), n, filters, 1234, x.data());
  truth(a.data(), w.data(), n, filters, 1234, y.data());
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
  const bool stream = up_to(1) == 0, packed = !stream || up_to(1) == 0, in_place = e.residual && up_to(1) == 0;
  const Elements empty(up_to(1) == 0 ? residual.dtype : some_float_type(), (row + rows) * K, false);
  Elements x = in_place ? residual : empty, y = x;
  std::vector<uint64_t> p(static_cast<size_t>((row + rows) * words_for(K))), q = p;
  const auto run = [&](ukernel::epilogue_fused* g, Elements& to, std::vector<uint64_t>& words) {
    if (in_place) e.residual = to.view();
    if (stream) e.stream = to.span();
    if (packed) e.words = words.data();
    g(e, dots.view(), part);
  };
  run(f, x, p);
  run(truth, y, q);
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
  return p == q;
}

// Limits say what the epilogue says of every dot product around them; the scalar form never has any, the others always
// where signs change between integers that float32 holds.
bool check(ukernel::sign_limits* f, ukernel::sign_limits* truth) {
  constexpr int32_t kAround = 4;
  const int64_t channels = up_to(1) == 0 ? kWordBits : 1 + up_to(kWordBits - 1);
  std::vector<float> scale(channels), bias(channels), shift(channels);
  for (int64_t k = 0; k < channels; ++k) {
    scale[k] = 0.01f * static_cast<float>(1 + up_to(200)) * (up_to(1) == 0 ? 1.0f : -1.0f);
    bias[k] = 0.25f * static_cast<float>(up_to(400) - 200);
    shift[k] = 0.5f * static_cast<float>(up_to(8) - 4);
  }
  Epilogue e;
  e.kind = Epilogue::Kind::fused, e.channels = channels;
  e.scale = scale.data(), e.bias = bias.data(), e.next_shift = up_to(1) == 0 ? shift.data() : nullptr;
  uint64_t word = 0, falling = 0;
  e.words = &word;
  int32_t limits[kWordBits];
  if (!f(e, 0, limits, &falling)) return f == truth;
  if ((falling & ~low_bits(channels)) != 0) return false;
  for (int32_t d = -kAround; d <= kAround; ++d) {
    int32_t dot[kWordBits];
    for (int k = 0; k < kWordBits; ++k) dot[k] = limits[k] + d;
    scalar::epilogue_fused(e, {.wide = dot, .ld = kWordBits}, {0, 1, 0, channels});
    if (word != ((d < 0 ? ~falling : falling) & low_bits(channels))) return false;
  }
  return true;
}

bool check(ukernel::gated_rows* f, ukernel::gated_rows* truth) {
  const int64_t C = some_channels(), N = 1 + up_to(2), pixels = 1 + up_to(20), image = up_to(N - 1);
  const int64_t first = up_to(pixels - 1), rows = up_to(pixels - first), row = image * pixels + first;
  const DType one = some_float_type();
  const auto type = [&] { return up_to(3) == 0 ? some_float_type() : one; };
  const Elements branch(type(), N * pixels * C), residual(type(), N * pixels * C), gate(some_float_type(), N * C);
  const auto scale = floats(C), bias = floats(C), shift = floats(C);
  GatedAdd p{branch.view(), gate.view(), pixels, up_to(1) == 0, {}};
  Epilogue& e = p.epilogue;
  e.channels = C, e.scale = scale.data(), e.bias = bias.data(), e.residual = residual.view();
  if (up_to(1) == 0) e.next_shift = shift.data();
  const bool stream = up_to(2) != 0, packed = !stream || up_to(1) == 0, in_place = up_to(2) == 0;
  const Elements empty(type(), N * pixels * C, false);
  Elements x = in_place ? residual : empty, y = x;
  std::vector<uint64_t> u(static_cast<size_t>(N * pixels * words_for(C))), v = u;
  std::vector<float> factors(static_cast<size_t>(C));
  const auto run = [&](ukernel::gated_rows* g, Elements& to, std::vector<uint64_t>& words) {
    if (in_place) e.residual = to.view();
    if (stream) e.stream = to.span();
    if (packed) e.words = words.data();
    g(p, image, row, rows, factors.data());
  };
  run(f, x, u);
  run(truth, y, v);
  return same(x, y) && u == v;
}

bool check(ukernel::accumulate* f, ukernel::accumulate* truth) {
  const int64_t n = up_to(150), count = 1 + up_to(9), step = n + up_to(9);
  const Elements v(some_float_type(), (count - 1) * step + n);
  Elements x(DType::f32, n), y = x;
  f(v.view(), count, step, n, reinterpret_cast<float*>(x.bytes.data()));
  truth(v.view(), count, step, n, reinterpret_cast<float*>(y.bytes.data()));
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
  int failures = 0;
  if (!check_inverse()) {
    std::printf("the second of two filters in a byte: some sums don't come apart\n");
    ++failures;
  }
#define BNN_UKERNEL(isa, op) failures += run(Isa::isa, #op, &isa::op, &scalar::op, rounds);
#include "cpu/ukernels.inc"
#undef BNN_UKERNEL
  return failures == 0 ? 0 : 1;
}
