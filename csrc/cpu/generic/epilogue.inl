#include "cpu/generic/rows.inl"

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

void epilogue_scaled(const Epilogue& e, const int32_t* dot, int64_t ld, int64_t row, int64_t rows) {
  with_type(e.y.dtype, [&](auto tag) {
    using T = decltype(tag);
    T* y = static_cast<T*>(e.y.data) + row * e.channels;
    for (int64_t r = 0; r < rows; ++r, dot += ld, y += e.channels) {
      for_lanes(e.channels, [&](int64_t k, auto n) {
        const Vec::F acc = Vec::load(dot + k, n);
        Vec::store(y + k, e.alpha == nullptr ? acc : Vec::mul(Vec::load(e.alpha + k, n), acc), n);
      });
    }
  });
}

template <class N>
inline Vec::F fused_lanes(const Epilogue& e, const int32_t* dot, int64_t k, int64_t i, N n) {
  Vec::F y = Vec::mul(Vec::load(e.scale + k, n), Vec::load(dot + k, n));
  y = Vec::add(y, Vec::load(e.bias + k, n));
  if (e.residual) y = Vec::add(y, load_any(e.residual, i, n));
  if (e.rprelu != nullptr) {
    const float* r = e.rprelu + k;
    const Vec::F t = Vec::add(y, Vec::load(r, n));
    const Vec::F slope = Vec::mul(Vec::load(r + e.channels, n), t);
    y = Vec::add(Vec::select(Vec::less(Vec::all(0.0f), t), slope, t), Vec::load(r + 2 * e.channels, n));
  }
  if (e.stream) store_any(e.stream, i, y, n);
  return y;
}

void epilogue_fused(const Epilogue& e, const int32_t* dot, int64_t ld, int64_t row, int64_t rows) {
  const int64_t K = e.channels, L = words_for(K);
  const Vec::F zero = Vec::all(0.0f);
  for (int64_t r = 0; r < rows; ++r, ++row, dot += ld) {
    for (int64_t c = 0; c < K; c += kWordBits) {
      const uint64_t word = word_of(std::min<int64_t>(kWordBits, K - c), [&](int64_t k, auto n) {
        Vec::F y = fused_lanes(e, dot, c + k, row * K + c + k, n);
        if (e.next_shift != nullptr) y = Vec::add(y, Vec::load(e.next_shift + c + k, n));
        return Vec::less(y, zero);
      });
      if (e.words != nullptr) e.words[row * L + c / kWordBits] = word;
    }
  }
}
