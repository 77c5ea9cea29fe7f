// A 3x3 convolution, words to words: one_convolution ISA C K SIDE STRIDE [IMAGES ROUNDS]. Prints what it ran on and the
// least time of a round, without and with filters that were packed before. For tools that count, see
// bench/instructions.py: what they are to count happens in `counted`.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string_view>
#include <vector>

#include "bnn/binary_conv2d.h"
#include "cpu/isa.h"

namespace {

using namespace bnn;

template <class T>
T* aligned(std::vector<T>& v, int64_t size) {
  if (v.size() < static_cast<size_t>(size) + 64) v.resize(static_cast<size_t>(size) + 64);
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(v.data()) + 63) / 64 * 64);
}

struct Memory {
  std::vector<uint64_t> image, panels, scratch;
};

extern "C" __attribute__((noinline)) std::string_view counted(const BinaryConv2d& problem, Memory& memory) {
  cpu::ConvPlan p = cpu::binary_conv2d_plan(problem);
  p.image = reinterpret_cast<char*>(aligned(memory.image, cpu::image_words(p)));
  p.panels = aligned(memory.panels, cpu::panels_words(p));
  uint64_t* scratch = aligned(memory.scratch, cpu::scratch_words(p));
  cpu::binary_conv2d_image(p, 0, cpu::image_rows(p));
  cpu::binary_conv2d_filters(p, 0, cpu::filter_units(p), scratch);
  cpu::binary_conv2d(p, 0, p.geometry.pixels(), scratch);
  return cpu::binary_conv2d_route(p);
}

std::vector<uint64_t> words(int64_t n) {
  static std::mt19937_64 random(1);
  std::vector<uint64_t> found(static_cast<size_t>(n));
  for (uint64_t& word : found) word = random();
  return found;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6 && argc != 8) return std::fprintf(stderr, "one_convolution ISA C K SIDE STRIDE [IMAGES ROUNDS]\n"), 2;
  cpu::isa_use(argv[1]);
  ConvGeometry g;
  g.N = argc == 8 ? std::atoll(argv[6]) : 1, g.C = std::atoll(argv[2]), g.K = std::atoll(argv[3]),
  g.H = g.W = std::atoll(argv[4]);
  g.R = g.S = 3, g.G = 1, g.stride_h = g.stride_w = std::atoll(argv[5]), g.pad_h = g.pad_w = 1;
  g.dilation_h = g.dilation_w = 1, g.pad_value = 0;
  g.OH = g.OW = conv_out_size(g.H, 3, g.stride_h, 1, 1);
  const auto x = words(g.N * g.H * g.W * g.L()), weight = words(g.K * g.taps() * g.Lg());
  const std::vector<float> scale(static_cast<size_t>(g.K), 0.5f), bias(static_cast<size_t>(g.K), 0.25f);
  std::vector<uint64_t> out(static_cast<size_t>(g.pixels() * words_for(g.K)));
  Epilogue e;
  e.kind = Epilogue::Kind::fused;
  e.channels = g.K, e.scale = scale.data(), e.bias = bias.data(), e.words = out.data();
  BinaryConv2d problem{g, x.data(), weight.data(), e, {}};
  Memory memory;
  if (argc == 6) {
    const std::string_view route = counted(problem, memory);
    return std::printf("%.*s\n", static_cast<int>(route.size()), route.data()), 0;
  }
  cpu::PackedFilters before = cpu::packed_filters(g);
  std::vector<uint64_t> packed(static_cast<size_t>(before.size));
  cpu::pack_filters(problem, packed.data());
  before.words = packed.data();
  for (const cpu::PackedFilters& filters : {cpu::PackedFilters{}, before}) {
    problem.packed = filters;
    double least = 1e30;
    std::string_view route;
    for (int64_t round = std::atoll(argv[7]); round > 0; --round) {
      const auto begin = std::chrono::steady_clock::now();
      route = counted(problem, memory);
      least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    const double macs = static_cast<double>(g.pixels() * g.K * g.taps() * g.C);
    std::printf("%.*s%s %.1f us %.0f GMAC/s\n", static_cast<int>(route.size()), route.data(),
                filters.words != nullptr ? ", filters packed before," : "", 1e6 * least, macs / least / 1e9);
  }
  return 0;
}
