// 8-bit convolutions of random sizes, on every instruction set, against a loop over their definition. Buffers are
// exactly as long as they have to be, so that a sanitizer build sees any access beyond.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "bnn/int8_conv2d.h"
#include "cpu/ukernels.h"
#include "tests/random.h"

namespace bnn::cpu {
namespace {

// Weights [K, R, S, C] in panels, as bnn/ops/int8_conv2d.py orders them
std::vector<int8_t> panels_of(const Int8Conv2d& p, const std::vector<int8_t>& weight) {
  const ConvGeometry& g = p.geometry;
  const int64_t rows = 1 + p.runs() * p.run(), inner = p.planes == 1 ? g.C : 1;
  std::vector<int8_t> out(static_cast<size_t>(ceil_div(g.K, kPanel) * rows * kPanelBytes));
  for (int64_t k = 0; k < g.K; ++k) {
    int8_t* panel = out.data() + k / kPanel * rows * kPanelBytes;
    const int64_t lane = k % kPanel;
    int32_t start = 0;
    for (int64_t r = 0; r < g.R; ++r) {
      for (int64_t s = 0; s < g.S; ++s) {
        for (int64_t c = 0; c < g.C; ++c) {
          const int8_t w = weight[((k * g.R + r) * g.S + s) * g.C + c];
          const int64_t run = p.planes == 1 ? r : r * g.C + c, at = s * inner + (p.planes == 1 ? c : 0);
          panel[(1 + run * p.run() + at / 4) * kPanelBytes + lane * 4 + at % 4] = w;
          start -= 128 * w;
        }
      }
    }
    std::memcpy(panel + lane * 4, &start, sizeof(start));
  }
  return out;
}

struct Case {
  Int8Conv2d p;
  std::vector<float> x, scale, bias, steps;  // x [N, C, H, W] or [N, H, W, C]
  std::vector<int8_t> weight;

  Case() {
    constexpr int64_t kChannels[] = {1, 2, 3, 4, 5, 8, 19, 64};
    ConvGeometry& g = p.geometry;
    g.N = 1 + up_to(1), g.C = kChannels[up_to(7)], g.K = 1 + up_to(70), g.R = 1 + up_to(3), g.S = 1 + up_to(6);
    g.stride_h = 1 + up_to(2), g.stride_w = 1 + up_to(2), g.pad_h = up_to(3), g.pad_w = up_to(3);
    g.H = std::max<int64_t>(1, g.R - 2 * g.pad_h) + up_to(9), g.W = std::max<int64_t>(1, g.S - 2 * g.pad_w) + up_to(9);
    g.OH = conv_out_size(g.H, g.R, g.stride_h, g.pad_h, 1), g.OW = conv_out_size(g.W, g.S, g.stride_w, g.pad_w, 1);
    p.planes = byte_planes(g.C, g.S);
    const int64_t size = 1 + up_to(3);
    p.pool = {size, 1 + up_to(2), up_to(size / 2)};
    if (std::min(g.OH, g.OW) + 2 * p.pool.padding < size || up_to(2) == 0) p.pool = {};
    p.PH = conv_out_size(g.OH, p.pool.size, p.pool.stride, p.pool.padding, 1);
    p.PW = conv_out_size(g.OW, p.pool.size, p.pool.stride, p.pool.padding, 1);
    for (int64_t i = 0; i < g.N * g.C * g.H * g.W; ++i) x.push_back(static_cast<float>(up_to(2000)) / 1000 - 1);
    for (int64_t i = 0; i < g.K * g.R * g.S * g.C; ++i) weight.push_back(static_cast<int8_t>(up_to(254) - 127));
    for (int64_t k = 0; k < g.K; ++k) scale.push_back(1.0f + static_cast<float>(k)), bias.push_back(0.5f);
    steps.resize(static_cast<size_t>(g.N));
  }

  int64_t byte(int64_t n, int64_t h, int64_t w, int64_t c) const {
    const ConvGeometry& g = p.geometry;
    if (h < 0 || h >= g.H || w < 0 || w >= g.W) return 0;
    const int64_t at = p.planes == 1 ? ((n * g.H + h) * g.W + w) * g.C + c : ((n * g.C + c) * g.H + h) * g.W + w;
    return static_cast<int64_t>(std::nearbyint(x[at] * (1 / steps[n]) + 128.0f)) - 128;
  }

  int64_t sum(int64_t n, int64_t oh, int64_t ow, int64_t k) const {
    const ConvGeometry& g = p.geometry;
    int64_t total = 0;
    for (int64_t r = 0; r < g.R; ++r) {
      for (int64_t s = 0; s < g.S; ++s) {
        for (int64_t c = 0; c < g.C; ++c) {
          total += weight[((k * g.R + r) * g.S + s) * g.C + c] *
                   byte(n, oh * g.stride_h - g.pad_h + r, ow * g.stride_w - g.pad_w + s, c);
        }
      }
    }
    return total;
  }

  float expected(int64_t n, int64_t i, int64_t j, int64_t k) const {
    int64_t largest = INT64_MIN;
    for (int64_t u = 0; u < p.pool.size; ++u) {
      for (int64_t v = 0; v < p.pool.size; ++v) {
        const int64_t oh = i * p.pool.stride - p.pool.padding + u, ow = j * p.pool.stride - p.pool.padding + v;
        const bool inside = oh >= 0 && oh < p.geometry.OH && ow >= 0 && ow < p.geometry.OW;
        if (inside) largest = std::max(largest, sum(n, oh, ow, k));
      }
    }
    return scale[k] * steps[n] * static_cast<float>(largest) + bias[k];
  }
};

bool check(Case& test) {
  Int8Conv2d& p = test.p;
  const ConvGeometry& g = p.geometry;
  const auto panels = panels_of(p, test.weight);
  std::vector<float> y(static_cast<size_t>(p.rows() * p.PW * g.K));
  p.x = {test.x.data(), DType::f32};
  p.panels = panels.data(), p.steps = test.steps.data();
  p.epilogue.kind = Epilogue::Kind::fused;
  p.epilogue.channels = g.K;
  p.epilogue.scale = test.scale.data(), p.epilogue.bias = test.bias.data();
  p.epilogue.stream = {y.data(), DType::f32};
  image_steps(p, 0, g.N);
  const int64_t words = int8_conv2d_scratch(p), half = up_to(p.rows());
  for (const auto& [begin, end] : {std::pair(int64_t{0}, half), {half, p.rows()}}) {
    auto* scratch = static_cast<uint64_t*>(std::aligned_alloc(64, static_cast<size_t>(words) * sizeof(uint64_t)));
    int8_conv2d(p, begin, end, scratch);
    std::free(scratch);
  }
  for (int64_t at = 0; at < static_cast<int64_t>(y.size()); ++at) {
    const int64_t k = at % g.K, j = at / g.K % p.PW, i = at / g.K / p.PW % p.PH, n = at / g.K / p.PW / p.PH;
    if (y[at] != test.expected(n, i, j, k)) return false;
  }
  return true;
}

}  // namespace
}  // namespace bnn::cpu

int main(int argc, char** argv) {
  using namespace bnn::cpu;
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 150;
  int failures = 0;
  for (Isa isa : isa_available()) {
    const std::string name(isa_name(isa));
    isa_use(name);
    int wrong = 0;
    for (int i = 0; i < rounds; ++i) {
      Case test;
      wrong += check(test) ? 0 : 1;
    }
    std::printf("%s: %d of %d wrong\n", name.c_str(), wrong, rounds);
    failures += wrong;
  }
  return failures == 0 ? 0 : 1;
}
