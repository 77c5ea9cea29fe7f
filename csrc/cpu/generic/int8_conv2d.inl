#include "cpu/generic/rows.inl"

float max_abs(ConstSpan x, int64_t n) {
  return with_type(x.dtype, [&](auto tag) {
    const auto* v = static_cast<const decltype(tag)*>(x.data);
    Vec::F largest = Vec::all(0.0f);
    for_lanes(n, [&](int64_t i, auto m) {
      const Vec::F magnitude = Vec::abs(Vec::load(v + i, m));
      largest = Vec::select(Vec::less(largest, magnitude), largest, magnitude);
    });
    float lanes[Vec::kLanes];
    Vec::store(lanes, largest, Full{});
    return *std::max_element(lanes, lanes + Vec::kLanes);
  });
}

void to_bytes(ConstSpan x, int64_t n, float inverse, uint8_t* bytes) {
  const Vec::F factor = Vec::all(inverse), most = Vec::all(127.5f), middle = Vec::all(128.0f);
  with_type(x.dtype, [&](auto tag) {
    const auto* v = static_cast<const decltype(tag)*>(x.data);
    for_lanes(n, [&](int64_t i, auto m) {
      const Vec::F product = Vec::mul(Vec::load(v + i, m), factor);
      const Vec::F inside = Vec::select(Vec::less_equal(Vec::abs(product), most), Vec::all(0.0f), product);
      Vec::store(bytes + i, Vec::add(inside, middle), m);
    });
  });
}
