#include <algorithm>

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

void expand_filters(const FilterWords& f) {
  int8_t* tile = f.tiles;
  for (int64_t panel = 0; panel < f.panels; ++panel) {
    for (int64_t s = 0; s < f.words; ++s, tile += kTileBytes) {
      for (int k = 0; k < kPanel; ++k) {
        for (int b = 0; b < kWordBits; ++b) {
          const bool inside = f.valid == nullptr || (f.valid[s] >> b & 1) != 0;
          tile[b / 4 * 64 + k * 4 + b % 4] = inside ? value(f.rows[panel * kPanel + k] + s, b) : int8_t{0};
        }
      }
    }
  }
}

void tile_products(const TileProducts& p) {
  for (int64_t row = 0; row < p.tiles * p.rows; ++row) {
    const int8_t* a = p.bytes + p.starts[row / p.rows] + row % p.rows * p.pitch;
    for (int64_t panel = 0; panel < p.count; ++panel) {
      const int8_t* tile = p.panels + panel * p.steps * kTileBytes;
      int32_t sums[kPanel] = {};
      for (int64_t s = 0; s < p.steps; ++s, tile += kTileBytes) {
        for (int b = 0; b < kWordBits; ++b) {
          for (int k = 0; k < kPanel; ++k) sums[k] += a[p.offsets[s] + b] * tile[b / 4 * 64 + k * 4 + b % 4];
        }
      }
      std::copy_n(sums, kPanel, p.dot + row * p.ld + panel * kPanel);
    }
  }
  if (p.next != nullptr) expand_filters(*p.next);
}

}  // namespace bnn::cpu::scalar
