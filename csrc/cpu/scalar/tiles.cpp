#include <algorithm>
#include <array>

#include "cpu/ukernels.h"

namespace bnn::cpu::scalar {
namespace {

bool bit(const uint64_t* words, int64_t channel) {
  return (words[channel / kWordBits] >> (channel % kWordBits) & 1) != 0;
}

// Place of a filter's bit in the codes of its tile
struct CodePlace {
  int64_t word;
  int bit;

  CodePlace(int filter, int channel) {
    const int row = channel / 4, lane = row / 4 * 16 + tile_column(filter);
    word = lane / 2;
    bit = lane % 2 * 32 + row % 4 * 4 + code_bit(second_in_column(filter), channel % 4);
  }
};

}  // namespace

void tile_rows(int) {}

void expand_pixels(const uint64_t* words, int64_t step, int64_t pixels, int64_t channels, uint8_t* bytes,
                   int16_t* ones) {
  for (int64_t i = 0; i < pixels; ++i, words += step) {
    ones[i] = 0;
    for (int64_t c = 0; c < channels; ++c) {
      *bytes++ = bit(words, c);
      ones[i] = static_cast<int16_t>(ones[i] + bit(words, c));
    }
  }
}

void count_window(const int16_t* ones, const int64_t* taps, int64_t count, int64_t rows, int32_t* row_add) {
  for (int64_t i = 0; i < rows; ++i) {
    int sum = 0;
    for (int64_t t = 0; t < count; ++t) sum += ones[i + taps[t]];
    row_add[i] = static_cast<int32_t>(0x10001u * static_cast<uint16_t>(-2 * sum));
  }
}

void pack_filters(const FilterWords& f, const PackedPanel& panel, uint8_t* counts) {
  const auto tiles = static_cast<int>(tiles_of(f.filters)), filters = tiles * kTileFilters;
  std::fill_n(panel.codes, f.steps * tiles * kCodeWords, uint64_t{0});
  for (int64_t w = 0; w < f.steps; ++w) {
    const int64_t s = f.place[w];
    for (int k = 0; k < filters; ++k) {
      const uint64_t word = f.row(k)[w] & (f.valid == nullptr ? ~uint64_t{0} : f.valid[w]);
      uint64_t* tile = panel.codes + (s * tiles + k / kTileFilters) * kCodeWords;
      for (int b = 0; b < kWordBits; ++b) {
        const CodePlace to(k % kTileFilters, b);
        tile[to.word] |= (word >> b & 1) << to.bit;
      }
      counts[s * kWordBits + k] = static_cast<uint8_t>(popcount(word));
      if (f.tap_words == 0) continue;
      int16_t& sum = panel.ones[w / f.tap_words * kWordBits + k];
      sum = static_cast<int16_t>((w % f.tap_words == 0 ? 0 : sum) + popcount(word));
    }
  }
  std::array<int, kWordBits> group = {};
  int64_t begin = 0;
  for (int64_t s = 0; s < f.steps; ++s) {
    bool full = s - begin == kMostSteps;
    for (int k = 0; k < filters; ++k) full |= (group[k] += counts[s * kWordBits + k]) > kMostOnes;
    panel.groups[s] = s == 0 || full;
    if (!full) continue;
    begin = s;
    for (int k = 0; k < filters; ++k) group[k] = counts[s * kWordBits + k];
  }
}

void tile_products(const TileProducts& p) {
  for (int64_t i = 0; i * kWordBits < p.filters; ++i) {
    const TilePanel panel = p.panel(i);
    const int64_t tiles = tiles_of(p.filters - i * kWordBits);
    for (int64_t t = 0; t < p.tiles; ++t) {
      for (int64_t at = p.starts[t]; at < p.starts[t] + p.rows; ++at) {
        for (int k = 0; k < tiles * kTileFilters; ++k) {
          int sum = 0;
          for (int64_t s = 0; s < p.steps; ++s) {
            const uint64_t* codes = panel.codes + (s * tiles + k / kTileFilters) * kCodeWords;
            for (int b = 0; b < kWordBits; ++b) {
              const CodePlace from(k % kTileFilters, b);
              if (codes[from.word] >> from.bit & 1) sum += p.bytes[at * p.pitch + p.offsets[s] + b];
            }
          }
          const auto rest = static_cast<int16_t>(4 * sum + static_cast<int16_t>(p.row_add[at]));
          const int16_t base = panel.base[p.row_base[at] + k];
          p.dot[(at - p.starts[t]) * kWordBits + k] = static_cast<int16_t>(rest + base);
          if (!*panel.limited || p.row_word[at] < 0) continue;
          uint32_t& word = p.words[p.row_word[at] + i * 2 + k / 32];
          const uint32_t bit = (rest < base) != (*panel.falling >> k & 1) ? 1 : 0;
          word = (word & ~(uint32_t{1} << k % 32)) | bit << k % 32;
        }
      }
      if (!*panel.limited) p.finished(p.context, i, t, 1);
    }
  }
}

}  // namespace bnn::cpu::scalar
