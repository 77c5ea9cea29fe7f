#include "cpu/narrow_bins.h"
#include "cpu/ukernels.h"

namespace bnn::cpu::scalar {

void accumulate(ConstSpan x, int64_t count, int64_t step, int64_t n, float* sum) {
  with_type(x.dtype, [&](auto tag) {
    const auto* v = static_cast<const decltype(tag)*>(x.data);
    for (int64_t i = 0; i < n; ++i) {
      float own = 0.0f;
      for (int64_t j = 0; j < count; ++j) own += to_float(v[j * step + i]);
      sum[i] += own;
    }
  });
}

void round_store(const float* x, int64_t n, Span y) {
  with_type(y.dtype, [&](auto tag) {
    auto* out = static_cast<decltype(tag)*>(y.data);
    for (int64_t i = 0; i < n; ++i) from_float(x[i], out[i]);
  });
}

void average_bins(const PoolBins& bins, const float* row, int64_t width, Span y, int64_t stride) {
  average_narrow_bins(bins, row, width, y, stride);
}

void spread_bins(const PoolBins& bins, ConstSpan y, int64_t stride, int64_t width, float* row) {
  spread_narrow_bins(bins, y, stride, width, row);
}

}  // namespace bnn::cpu::scalar
