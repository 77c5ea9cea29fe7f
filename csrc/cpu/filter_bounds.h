#pragma once

#include <cstdint>
#include <type_traits>

#include "bnn/binary_conv2d.h"
#include "cpu/parts.h"

namespace bnn::cpu {

inline int64_t class_count(const ConvPlan& p) { return p.border_sums ? p.rows.size() * p.columns.size() : 1; }

// What a call makes of 64 filters, for every border class of pixels: where their dot products begin. Where words alone
// are asked for and limited is 1, what decides on a bit, which is inverted where its bit of falling is 1.
template <class T>
struct Bounds {
  T* base;  // [classes, 64]
  uint8_t* limited;
  uint64_t* falling;

  Bounds(const ConvPlan& p, Parts& parts)
      : base(parts.take<T>(class_count(p) * kWordBits)),
        limited(parts.take<uint8_t>(1)),
        falling(parts.take<uint64_t>(1)) {}

  static int64_t bytes(const ConvPlan& p) {
    Parts parts;
    static_cast<void>(Bounds(p, parts));
    return parts.bytes();
  }
};

// base [classes, 64] = sum over taps inside of w, a filter's +-1, modulo the range of T; ones [taps, 64]: set bits of
// its taps
template <class T>
void sum_inside(const ConvPlan& p, const T* ones, T* base) {
  using U = std::make_unsigned_t<T>;
  const ConvGeometry& g = p.geometry;
  const TapRange all_rows{0, g.R}, all_columns{0, g.S};
  for (int64_t i = 0; i < class_count(p); ++i, base += kWordBits) {
    const TapRange rows = p.border_sums ? p.rows.inside[i / p.columns.size()] : all_rows;
    const TapRange columns = p.border_sums ? p.columns.inside[i % p.columns.size()] : all_columns;
    const int64_t inside = g.Cg() * (rows.end - rows.begin) * (columns.end - columns.begin);
    constexpr int kAtOnce = 16;  // filters, their sums in registers
    for (int64_t first = 0; first < kWordBits; first += kAtOnce) {
      U sum[kAtOnce] = {};
      for (int64_t r = rows.begin; r < rows.end; ++r) {
        const T* tap = ones + (r * g.S + columns.begin) * kWordBits + first;
        for (int64_t s = columns.begin; s < columns.end; ++s, tap += kWordBits) {
          for (int k = 0; k < kAtOnce; ++k) sum[k] = static_cast<U>(sum[k] + static_cast<U>(tap[k]));
        }
      }
      for (int k = 0; k < kAtOnce; ++k) base[first + k] = static_cast<T>(static_cast<U>(inside) - 2 * sum[k]);
    }
  }
}

}  // namespace bnn::cpu
