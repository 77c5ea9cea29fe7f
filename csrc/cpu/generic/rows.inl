// Loops shared by the vector ISAs: included inside namespace bnn::cpu::<isa> and its target region, on top of its Vec.
// In a body, n says how many lanes count: Full, or an int below Vec::kLanes.

template <class Body>
inline void for_lanes(int64_t count, Body&& body) {
  int64_t i = 0;
  for (; i + Vec::kLanes <= count; i += Vec::kLanes) body(i, Full{});
  if (i < count) body(i, static_cast<int>(count - i));
}

// One word from the masks of up to 64 channels; bits beyond count are 0.
template <class Body>
inline uint64_t word_of(int64_t count, Body&& lanes) {
  uint64_t word = 0;
  if (count == kWordBits) {
    for (int i = 0; i < kWordBits; i += Vec::kLanes) word |= lanes(i, Full{}) << i;
    return word;
  }
  for_lanes(count, [&](int64_t i, auto n) { word |= lanes(i, n) << i; });
  return word & low_bits(count);
}

template <class T, class N>
inline Vec::F load_shifted(const T* x, const float* shift, int64_t i, N n) {
  const Vec::F v = Vec::load(x + i, n);
  return shift == nullptr ? v : Vec::add(v, Vec::load(shift + i, n));
}

template <class N>
inline Vec::F load_any(ConstSpan s, int64_t i, N n) {
  if (s.dtype == DType::f32) return Vec::load(static_cast<const float*>(s.data) + i, n);
  if (s.dtype == DType::bf16) return Vec::load(static_cast<const Bf16*>(s.data) + i, n);
  return Vec::load(static_cast<const Half*>(s.data) + i, n);
}

template <class N>
inline void store_any(Span s, int64_t i, Vec::F v, N n) {
  if (s.dtype == DType::f32) return Vec::store(static_cast<float*>(s.data) + i, v, n);
  if (s.dtype == DType::bf16) return Vec::store(static_cast<Bf16*>(s.data) + i, v, n);
  return Vec::store(static_cast<Half*>(s.data) + i, v, n);
}
