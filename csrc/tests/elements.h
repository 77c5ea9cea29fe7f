#pragma once

// Values of any dtype for the tests of microkernels.

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "bnn/half.h"
#include "bnn/span.h"
#include "bnn/with_type.h"
#include "tests/random.h"

namespace bnn::cpu {

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

inline DType some_float_type() { return static_cast<DType>(up_to(2)); }

// Equal bit for bit, but any NaN equals any NaN.
inline bool same(const Elements& a, const Elements& b) {
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

}  // namespace bnn::cpu
