#pragma once

#include <cstdint>

#include "bnn/with_type.h"

namespace bnn::cpu::scalar {

inline float load(ConstSpan s, int64_t i) {
  float v = 0.0f;
  with_type(s.dtype, [&](auto tag) { v = to_float(static_cast<const decltype(tag)*>(s.data)[i]); });
  return v;
}

inline void store(Span s, int64_t i, float v) {
  with_type(s.dtype, [&](auto tag) { from_float(v, static_cast<decltype(tag)*>(s.data)[i]); });
}

}  // namespace bnn::cpu::scalar
