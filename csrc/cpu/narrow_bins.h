#pragma once

#include "bnn/multires_pool2d.h"
#include "bnn/with_type.h"

// Bins of few elements a position (a single channel, RGB): plain loops, where vectors would be mostly empty.

namespace bnn::cpu {

inline void average_narrow_bins(const PoolBins& bins, const float* row, int64_t width, Span y, int64_t stride) {
  with_type(y.dtype, [&](auto tag) {
    auto* out = static_cast<decltype(tag)*>(y.data);
    for (int64_t j = 0; j < bins.count; ++j, out += stride) {
      const float factor = bins.factor(j);
      for (int64_t e = 0; e < width; ++e) {
        float sum = 0.0f;
        for (int64_t w = bins.start[j]; w < bins.end[j]; ++w) sum += row[w * width + e];
        from_float(factor * sum, out[e]);
      }
    }
  });
}

inline void spread_narrow_bins(const PoolBins& bins, ConstSpan y, int64_t stride, int64_t width, float* row) {
  with_type(y.dtype, [&](auto tag) {
    const auto* in = static_cast<const decltype(tag)*>(y.data);
    for (int64_t j = 0; j < bins.count; ++j, in += stride) {
      const float factor = bins.factor(j);
      for (int64_t e = 0; e < width; ++e) {
        const float v = factor * to_float(in[e]);
        for (int64_t w = bins.start[j]; w < bins.end[j]; ++w) row[w * width + e] += v;
      }
    }
  });
}

}  // namespace bnn::cpu
