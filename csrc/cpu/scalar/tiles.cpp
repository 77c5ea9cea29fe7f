#include <algorithm>
#include <array>

#include "cpu/ukernels.h"

namespace bnn::cpu::scalar {
namespace {

int8_t value(const uint64_t* words, int64_t channel) {
  return (words[channel / kWordBits] >> (channel % kWordBits)) & 1 ? -1 : 1;
}

}  // namespace

void tile_rows(int) {}

void expand_pixels(const uint64_t* words, int64_t step, int64_t pixels, int64_t channels, int8_t* bytes) {
  for (int64_t i = 0; i < pixels; ++i, words += step) {
    for (int64_t c = 0; c < channels; ++c) *bytes++ = value(words, c);
  }
}

void expand_filters(const FilterWords& f, int8_t* tiles) {
  for (int64_t panel = 0; panel < f.panels(); ++panel) {
    for (int64_t s = 0; s < f.steps; ++s, tiles += kTileBytes) {
      for (int k = 0; k < kPanel; ++k) {
        for (int b = 0; b < kWordBits; ++b) {
          const bool inside = f.valid == nullptr || (f.valid[s] >> b & 1) != 0;
          tiles[b / 4 * 64 + k * 4 + b % 4] = inside ? value(f.row(panel * kPanel + k) + s, b) : int8_t{0};
        }
      }
    }
  }
}

void tile_products(const TileProducts& p) {
  for (int64_t panel = 0; panel < p.count; ++panel) {
    std::array<int8_t, kTileBytes> expanded;
    for (int64_t row = 0; row < p.tiles * p.rows; ++row) std::fill_n(p.dot + row * p.ld + panel * kPanel, kPanel, 0);
    for (int64_t s = 0; s < p.steps; ++s) {
      const int8_t* tile = p.panels + (panel * p.steps + s) * kTileBytes;
      if (p.filters != nullptr) {
        FilterWords f = *p.filters;
        const uint64_t* valid = f.valid == nullptr ? nullptr : f.valid + s;
        f = {f.row(panel * kPanel) + s, f.stride, std::min<int64_t>(kPanel, f.filters - panel * kPanel), 1, valid};
        expand_filters(f, expanded.data());
        tile = expanded.data();
      }
      for (int64_t row = 0; row < p.tiles * p.rows; ++row) {
        const int8_t* a = p.bytes + p.starts[row / p.rows] + row % p.rows * p.pitch + p.offsets[s];
        int32_t* sums = p.dot + row * p.ld + panel * kPanel;
        for (int b = 0; b < kWordBits; ++b) {
          for (int k = 0; k < kPanel; ++k) sums[k] += a[b] * tile[b / 4 * 64 + k * 4 + b % 4];
        }
      }
    }
  }
}

}  // namespace bnn::cpu::scalar
