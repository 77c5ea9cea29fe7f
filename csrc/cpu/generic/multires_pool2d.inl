#include "cpu/generic/rows.inl"

void accumulate(ConstSpan x, int64_t n, float* sum) {
  with_type(x.dtype, [&](auto tag) {
    const auto* v = static_cast<const decltype(tag)*>(x.data);
    for_lanes(n,
              [&](int64_t i, auto m) { Vec::store(sum + i, Vec::add(Vec::load(sum + i, m), Vec::load(v + i, m)), m); });
  });
}

void round_store(const float* x, int64_t n, Span y) {
  with_type(y.dtype, [&](auto tag) {
    auto* out = static_cast<decltype(tag)*>(y.data);
    for_lanes(n, [&](int64_t i, auto m) { Vec::store(out + i, Vec::load(x + i, m), m); });
  });
}

void average_bins(const PoolBins& bins, const float* row, int64_t width, Span y, int64_t stride) {
  if (width < Vec::kLanes) return average_narrow_bins(bins, row, width, y, stride);
  with_type(y.dtype, [&](auto tag) {
    auto* out = static_cast<decltype(tag)*>(y.data);
    for (int64_t j = 0; j < bins.count; ++j, out += stride) {
      const Vec::F factor = Vec::all(bins.factor(j));
      for_lanes(width, [&](int64_t e, auto m) {
        Vec::F sum = Vec::all(0.0f);
        for (int64_t w = bins.start[j]; w < bins.end[j]; ++w) sum = Vec::add(sum, Vec::load(row + w * width + e, m));
        Vec::store(out + e, Vec::mul(factor, sum), m);
      });
    }
  });
}

void spread_bins(const PoolBins& bins, ConstSpan y, int64_t stride, int64_t width, float* row) {
  if (width < Vec::kLanes) return spread_narrow_bins(bins, y, stride, width, row);
  with_type(y.dtype, [&](auto tag) {
    const auto* in = static_cast<const decltype(tag)*>(y.data);
    for (int64_t j = 0; j < bins.count; ++j, in += stride) {
      const Vec::F factor = Vec::all(bins.factor(j));
      for_lanes(width, [&](int64_t e, auto m) {
        const Vec::F v = Vec::mul(factor, Vec::load(in + e, m));
        for (int64_t w = bins.start[j]; w < bins.end[j]; ++w) {
          float* to = row + w * width + e;
          Vec::store(to, Vec::add(Vec::load(to, m), v), m);
        }
      });
    }
  });
}
