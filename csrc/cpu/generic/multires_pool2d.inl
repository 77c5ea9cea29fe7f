#include "cpu/generic/rows.inl"

void accumulate(ConstSpan x, int64_t n, float* sum) {
  with_type(x.dtype, [&](auto tag) {
    const auto* v = static_cast<const decltype(tag)*>(x.data);
    for_lanes(n, [&](int64_t i, auto m) { Vec::store(sum + i, Vec::add(Vec::load(sum + i, m), Vec::load(v + i, m)), m); });
  });
}

void scale_store(const float* x, float factor, int64_t n, Span y) {
  with_type(y.dtype, [&](auto tag) {
    auto* out = static_cast<decltype(tag)*>(y.data);
    for_lanes(n, [&](int64_t i, auto m) { Vec::store(out + i, Vec::mul(Vec::all(factor), Vec::load(x + i, m)), m); });
  });
}
