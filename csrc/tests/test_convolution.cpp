// binary_conv2d on every available ISA against loops over single products, on random geometries.
// Workspaces are exactly as long as the planner says, so that a sanitizer build sees any access beyond.

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "bnn/binary_conv2d.h"
#include "cpu/isa.h"

namespace bnn {
namespace {

std::mt19937_64 g_random(20240607);

int64_t between(int64_t low, int64_t high) {
  return low + static_cast<int64_t>(g_random() % static_cast<uint64_t>(high - low + 1));
}

// Words of [rows, channels] random bits, tail bits 0.
std::vector<uint64_t> random_words(int64_t rows, int64_t channels) {
  const int64_t L = words_for(channels);
  std::vector<uint64_t> out(static_cast<size_t>(rows * L));
  for (uint64_t& w : out) w = g_random();
  for (int64_t row = 0; row < rows; ++row) out[(row + 1) * L - 1] &= low_bits(channels - (L - 1) * kWordBits);
  return out;
}

int value(const uint64_t* row, int64_t channel) {
  return (row[channel / kWordBits] >> (channel % kWordBits)) & 1 ? -1 : 1;
}

ConvGeometry random_geometry() {
  constexpr int64_t kChannels[] = {1, 3, 8, 16, 31, 32, 33, 64, 65, 96, 128, 130};
  ConvGeometry g;
  do {
    const int64_t shape = between(0, 5);
    const int64_t wide = between(0, 11) == 0 ? 448 : 0;  // whole vectors of words
    g.G = shape == 0 ? wide + between(1, 130) : shape == 1 ? between(2, 4) : 1;
    g.C = shape == 0 ? g.G : g.G * kChannels[between(0, 11)];
    g.K = g.G * (between(0, 3) == 0 ? 64 * between(1, 2) : between(1, shape == 0 ? 3 : 40));
    g.N = between(1, 2);
    g.H = between(1, 8), g.W = between(1, 8);
    g.R = between(1, 4), g.S = between(1, 4);
    g.stride_h = between(1, 3), g.stride_w = between(1, 3);
    g.pad_h = between(0, 3), g.pad_w = between(0, 3);
    g.dilation_h = between(1, 2), g.dilation_w = between(1, 2);
    g.pad_value = static_cast<int>(between(-1, 1));
    if (between(0, 15) == 0) {  // large enough that products outside are not worth skipping
      g.N = g.G = 1, g.C = 64, g.K = between(1, 20), g.H = between(50, 60), g.W = between(50, 60);
      g.R = g.S = 3, g.pad_h = g.pad_w = 1;
    }
    g.OH = conv_out_size(g.H, g.R, g.stride_h, g.pad_h, g.dilation_h);
    g.OW = conv_out_size(g.W, g.S, g.stride_w, g.pad_w, g.dilation_w);
  } while (g.OH == 0 || g.OW == 0);
  return g;
}

int32_t product_sum(const BinaryConv2d& p, int64_t n, int64_t oh, int64_t ow, int64_t k) {
  const ConvGeometry& g = p.geometry;
  int32_t sum = 0;
  for (int64_t t = 0; t < g.taps(); ++t) {
    const int64_t h = oh * g.stride_h - g.pad_h + t / g.S * g.dilation_h;
    const int64_t w = ow * g.stride_w - g.pad_w + t % g.S * g.dilation_w;
    const bool inside = h >= 0 && h < g.H && w >= 0 && w < g.W;
    for (int64_t c = 0; c < g.Cg(); ++c) {
      const int weight = value(p.weight + (k * g.taps() + t) * g.Lg(), c);
      const int64_t channel = k / g.Kg() * g.Cg() + c;
      sum += weight * (inside ? value(p.x + ((n * g.H + h) * g.W + w) * g.L(), channel) : g.pad_value);
    }
  }
  return sum;
}

std::vector<int32_t> reference(const BinaryConv2d& p) {
  const ConvGeometry& g = p.geometry;
  std::vector<int32_t> out;
  for (int64_t pixel = 0; pixel < g.pixels(); ++pixel) {
    for (int64_t k = 0; k < g.K; ++k) {
      out.push_back(product_sum(p, pixel / (g.OH * g.OW), pixel / g.OW % g.OH, pixel % g.OW, k));
    }
  }
  return out;
}

void run(const BinaryConv2d& problem, cpu::Route route) {
  cpu::ConvPlan p = cpu::binary_conv2d_plan(problem, route);
  const ConvGeometry& g = p.geometry;
  std::vector<uint64_t> image(cpu::image_words(p)), panels(cpu::panels_words(p)), scratch(cpu::scratch_words(p));
  p.image = reinterpret_cast<char*>(image.data());
  p.panels = panels.data();
  cpu::binary_conv2d_image(p, 0, cpu::image_rows(p));
  cpu::binary_conv2d_filters(p, 0, cpu::filter_units(p), scratch.data());
  const int64_t split = between(0, g.pixels());  // two threads would cut the pixels anywhere
  cpu::binary_conv2d(p, split, g.pixels(), scratch.data());
  cpu::binary_conv2d(p, 0, split, scratch.data());
}

std::vector<int32_t> sums_of(BinaryConv2d problem, cpu::Route route) {
  std::vector<int32_t> sums(problem.geometry.pixels() * problem.geometry.K);
  problem.epilogue.channels = problem.geometry.K;
  problem.epilogue.sums = sums.data();
  run(problem, route);
  return sums;
}

// Signs of scale * sum + bias, words alone
struct Signs {
  std::vector<float> scale, bias;

  explicit Signs(int64_t filters) {
    const bool zeros = between(0, 3) == 0;  // a filter whose sign never changes has no limit
    for (int64_t k = 0; k < filters; ++k) {
      const int64_t size = between(zeros ? 0 : 1, 3);
      scale.push_back(static_cast<float>(between(0, 1) == 0 ? -size : size) / 4);
      bias.push_back(static_cast<float>(between(-40, 40)) / 8);
    }
  }

  std::vector<uint64_t> by(BinaryConv2d problem, cpu::Route route) const {
    const ConvGeometry& g = problem.geometry;
    std::vector<uint64_t> words(g.pixels() * words_for(g.K));
    Epilogue& e = problem.epilogue;
    e.kind = Epilogue::Kind::fused;
    e.channels = g.K, e.scale = scale.data(), e.bias = bias.data(), e.words = words.data();
    run(problem, route);
    return words;
  }

  std::vector<uint64_t> of(const std::vector<int32_t>& sums) const {
    const auto filters = static_cast<int64_t>(scale.size()), L = words_for(filters);
    std::vector<uint64_t> words(sums.size() / scale.size() * L);
    for (size_t i = 0; i < sums.size(); ++i) {
      const auto k = static_cast<int64_t>(i) % filters, pixel = static_cast<int64_t>(i) / filters;
      const bool negative = scale[k] * static_cast<float>(sums[i]) + bias[k] < 0;
      words[pixel * L + k / kWordBits] |= uint64_t{negative} << k % kWordBits;
    }
    return words;
  }
};

bool same_on_every_isa(const ConvGeometry& g) {
  const auto x = random_words(g.N * g.H * g.W, g.C), weight = random_words(g.K * g.taps(), g.Cg());
  BinaryConv2d p;
  p.geometry = g;
  p.x = x.data();
  p.weight = weight.data();
  const auto expected = reference(p);
  const Signs signs(g.K);
  const auto expected_signs = signs.of(expected);
  for (cpu::Isa isa : cpu::isa_available()) {
    cpu::isa_use(cpu::isa_name(isa));
    BinaryConv2d before = p;
    before.packed = cpu::packed_filters(g);
    std::vector<uint64_t> packed(static_cast<size_t>(before.packed.size));
    cpu::pack_filters(p, packed.data());
    before.packed.words = packed.data();
    const auto right_by = [&](cpu::Route route) {  // with filters for the other route, too
      return sums_of(p, route) == expected && sums_of(before, route) == expected &&
             signs.by(p, route) == expected_signs && signs.by(before, route) == expected_signs;
    };
    const bool right = right_by(cpu::Route::popcount), tiles = right_by(cpu::Route::tiles);
    for (uint64_t& word : packed) word = g_random();
    for (auto route : {cpu::Route::popcount, cpu::Route::tiles})
      signs.by(before, route);  // forged: stays in its memory
    if (right && tiles) continue;
    std::printf("%s %s differs: N %ld C %ld H %ld W %ld K %ld R %ld S %ld G %ld pad_value %d\n",
                std::string(cpu::isa_name(isa)).c_str(), right ? "tiles" : "popcount", g.N, g.C, g.H, g.W, g.K, g.R,
                g.S, g.G, g.pad_value);
    return false;
  }
  return true;
}

}  // namespace
}  // namespace bnn

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 150;
  for (int i = 0; i < rounds; ++i) {
    if (!bnn::same_on_every_isa(bnn::random_geometry())) return 1;
  }
  std::printf("binary_conv2d: %d geometries ok\n", rounds);
  return 0;
}
