#include "cpu/dispatch.h"
#include "cpu/ukernels.h"

namespace bnn::cpu::scalar {

void accumulate(ConstSpan x, int64_t n, float* sum) {
  with_type(x.dtype, [&](auto tag) {
    const auto* v = static_cast<const decltype(tag)*>(x.data);
    for (int64_t i = 0; i < n; ++i) sum[i] += to_float(v[i]);
  });
}

void scale_store(const float* x, float factor, int64_t n, Span y) {
  with_type(y.dtype, [&](auto tag) {
    auto* out = static_cast<decltype(tag)*>(y.data);
    for (int64_t i = 0; i < n; ++i) from_float(factor * x[i], out[i]);
  });
}

}  // namespace bnn::cpu::scalar
