#include "cpu/generic/rows.inl"

float max_abs(ConstSpan x, int64_t n) {
  return with_type(x.dtype, [&](auto tag) {
    const auto* v = static_cast<const decltype(tag)*>(x.data);
    Vec::F largest = Vec::all(0.0f), zeros = largest;  // NaN where a value is or is infinite
    for_lanes(n, [&](int64_t i, auto m) {
      const Vec::F value = Vec::load(v + i, m), magnitude = Vec::abs(value);
      largest = Vec::select(Vec::less(largest, magnitude), largest, magnitude);
      zeros = Vec::add(zeros, Vec::sub(value, value));
    });
    float lanes[Vec::kLanes], odd[Vec::kLanes];
    Vec::store(lanes, largest, Full{});
    Vec::store(odd, zeros, Full{});
    const bool finite = std::count(odd, odd + Vec::kLanes, 0.0f) == Vec::kLanes;
    return finite ? *std::max_element(lanes, lanes + Vec::kLanes) : HUGE_VALF;
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
