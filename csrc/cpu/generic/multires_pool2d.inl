#include "cpu/generic/rows.inl"

void accumulate(ConstSpan x, int64_t count, int64_t step, int64_t n, float* sum) {
  constexpr int kSums = 4;
  with_type(x.dtype, [&](auto tag) {
    const auto* v = static_cast<const decltype(tag)*>(x.data);
    int64_t i = 0;
    for (; i + kSums * Vec::kLanes <= n; i += kSums * Vec::kLanes) {
      Vec::F own[kSums];
#pragma GCC unroll 4
      for (Vec::F& s : own) s = Vec::all(0.0f);
      for (int64_t j = 0; j < count; ++j) {
#pragma GCC unroll 4
        for (int k = 0; k < kSums; ++k) {
          own[k] = Vec::add(own[k], Vec::load(v + j * step + i + k * Vec::kLanes, Full{}));
        }
      }
#pragma GCC unroll 4
      for (int k = 0; k < kSums; ++k) {
        float* to = sum + i + k * Vec::kLanes;
        Vec::store(to, Vec::add(Vec::load(to, Full{}), own[k]), Full{});
      }
    }
    for_lanes(n - i, [&](int64_t k, auto m) {
      Vec::F own = Vec::all(0.0f);
      for (int64_t j = 0; j < count; ++j) own = Vec::add(own, Vec::load(v + j * step + i + k, m));
      Vec::store(sum + i + k, Vec::add(Vec::load(sum + i + k, m), own), m);
    });
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
