#pragma once

// Checks of the microkernels for a matrix unit, for test_ukernels.cpp.

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "cpu/ukernels.h"
#include "tests/random.h"

namespace bnn::cpu {
namespace {

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

}  // namespace
}  // namespace bnn::cpu
