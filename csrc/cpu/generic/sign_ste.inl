#include "cpu/generic/rows.inl"

inline Vec::F clip_derivative(Vec::F v) {
  return Vec::select(Vec::less_equal(Vec::abs(v), Vec::all(1.0f)), Vec::all(0.0f), Vec::all(1.0f));
}

inline Vec::F polynomial_derivative(Vec::F v) {
  return Vec::positive_part(Vec::sub(Vec::all(2.0f), Vec::mul(Vec::all(2.0f), Vec::abs(v))));
}

void sign_ste(ConstSpan x, const float* shift, int64_t rows, int64_t channels, Span y) {
  with_type(x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* in = static_cast<const T*>(x.data);
    T* out = static_cast<T*>(y.data);
    for (int64_t row = 0; row < rows; ++row, in += channels, out += channels) {
      for_lanes(channels, [&](int64_t i, auto n) {
        const uint64_t negative = Vec::less(load_shifted(in, shift, i, n), Vec::all(0.0f));
        Vec::store(out + i, Vec::select(negative, Vec::all(1.0f), Vec::all(-1.0f)), n);
      });
    }
  });
}

void sign_ste_backward(ConstSpan grad, ConstSpan x, const float* shift, Surrogate surrogate, int64_t rows,
                       int64_t channels, Span grad_x) {
  with_type(x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* g = static_cast<const T*>(grad.data);
    const T* in = static_cast<const T*>(x.data);
    T* out = static_cast<T*>(grad_x.data);
    const bool clip = surrogate == Surrogate::clip;
    for (int64_t row = 0; row < rows; ++row, g += channels, in += channels, out += channels) {
      for_lanes(channels, [&](int64_t i, auto n) {
        const Vec::F v = load_shifted(in, shift, i, n);
        const Vec::F d = clip ? clip_derivative(v) : polynomial_derivative(v);
        Vec::store(out + i, Vec::mul(Vec::load(g + i, n), d), n);
      });
    }
  });
}

template <class T>
inline void residue_clip(const T* x, const float* shift, int64_t rows, int64_t channels, uint64_t* words,
                         uint64_t* inside) {
  for (int64_t row = 0; row < rows; ++row, x += channels) {
    for (int64_t c = 0; c < channels; c += kWordBits) {
      const int64_t count = std::min<int64_t>(kWordBits, channels - c);
      uint64_t passes = 0;
      *words++ = word_of(count, [&](int64_t i, auto n) {
        const Vec::F v = load_shifted(x, shift, c + i, n);
        passes |= Vec::less_equal(Vec::abs(v), Vec::all(1.0f)) << i;
        return Vec::less(v, Vec::all(0.0f));
      });
      *inside++ = passes & low_bits(count);
    }
  }
}

template <class T>
inline void residue_polynomial(const T* x, const float* shift, int64_t rows, int64_t channels, uint64_t* words,
                               uint8_t* quanta) {
  for (int64_t row = 0; row < rows; ++row, x += channels, quanta += channels) {
    for (int64_t c = 0; c < channels; c += kWordBits) {
      *words++ = word_of(std::min<int64_t>(kWordBits, channels - c), [&](int64_t i, auto n) {
        const Vec::F v = load_shifted(x, shift, c + i, n);
        const Vec::F d = Vec::positive_part(Vec::sub(Vec::all(1.0f), Vec::abs(v)));
        Vec::store(quanta + c + i, Vec::mul(Vec::all(255.0f), d), n);
        return Vec::less(v, Vec::all(0.0f));
      });
    }
  }
}

void ste_residue(ConstSpan x, const float* shift, Surrogate surrogate, int64_t rows, int64_t channels, uint64_t* words,
                 void* residue) {
  with_type(x.dtype, [&](auto tag) {
    const auto* in = static_cast<const decltype(tag)*>(x.data);
    if (surrogate == Surrogate::clip) {
      residue_clip(in, shift, rows, channels, words, static_cast<uint64_t*>(residue));
    } else {
      residue_polynomial(in, shift, rows, channels, words, static_cast<uint8_t*>(residue));
    }
  });
}

void ste_residue_backward(ConstSpan grad, const void* residue, Surrogate surrogate, int64_t rows, int64_t channels,
                          Span grad_x) {
  const int64_t L = words_for(channels);
  const uint64_t* inside = static_cast<const uint64_t*>(residue);
  const uint8_t* quanta = static_cast<const uint8_t*>(residue);
  const bool clip = surrogate == Surrogate::clip;
  with_type(grad.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* g = static_cast<const T*>(grad.data);
    T* out = static_cast<T*>(grad_x.data);
    for (int64_t row = 0; row < rows; ++row, g += channels, out += channels, inside += L, quanta += channels) {
      for_lanes(channels, [&](int64_t i, auto n) {
        const Vec::F d = clip ? Vec::select(inside[i / kWordBits] >> (i % kWordBits), Vec::all(0.0f), Vec::all(1.0f))
                              : Vec::mul(Vec::load(quanta + i, n), Vec::all(2.0f / 255.0f));
        Vec::store(out + i, Vec::mul(Vec::load(g + i, n), d), n);
      });
    }
  });
}
