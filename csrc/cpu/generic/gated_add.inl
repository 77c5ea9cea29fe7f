#include "cpu/generic/rows.inl"

template <class T>
struct Elements {
  const T* data;

  template <class N>
  Vec::F load(int64_t i, N n) const {
    return Vec::load(data + i, n);
  }
};

struct AnyElements {
  ConstSpan data;

  template <class N>
  Vec::F load(int64_t i, N n) const {
    return load_any(data, i, n);
  }
};

template <class In, class Store>
void gated_elements(const GatedAdd& p, int64_t row, int64_t rows, const float* factors, const In& x, const In& residual,
                    const Store& store) {
  const Epilogue& e = p.epilogue;
  const int64_t C = e.channels, L = words_for(C);
  const Vec::F zero = Vec::all(0.0f);
  const auto run = [&](auto multiply) {
    for (const int64_t end = row + rows; row < end; ++row) {
      for (int64_t c = 0; c < C; c += kWordBits) {
        const uint64_t word = word_of(std::min<int64_t>(kWordBits, C - c), [&](int64_t k, auto n) {
          k += c;
          const int64_t i = row * C + k;
          const Vec::F r = residual.load(i, n);
          Vec::F t = Vec::mul(Vec::load(factors + k, n), x.load(i, n));
          if constexpr (multiply.value) t = Vec::mul(t, r);
          t = Vec::add(Vec::add(t, Vec::load(e.bias + k, n)), r);
          store(i, t, n);
          return Vec::less(e.next_shift == nullptr ? t : Vec::add(t, Vec::load(e.next_shift + k, n)), zero);
        });
        if (e.words != nullptr) e.words[row * L + c / kWordBits] = word;
      }
    }
  };
  p.multiply ? run(std::true_type{}) : run(std::false_type{});
}

void gated_rows(const GatedAdd& p, int64_t image, int64_t row, int64_t rows, float* factors) {
  const Epilogue& e = p.epilogue;
  for_lanes(e.channels, [&](int64_t k, auto n) {
    const Vec::F gate = load_any(p.gate, image * e.channels + k, n);
    Vec::store(factors + k, Vec::mul(gate, Vec::load(e.scale + k, n)), n);
  });
  if (p.x.dtype != e.residual.dtype || p.x.dtype != e.stream.dtype || !e.stream) {
    return gated_elements(p, row, rows, factors, AnyElements{p.x}, AnyElements{e.residual},
                          [&](int64_t i, Vec::F t, auto n) {
                            if (e.stream) store_any(e.stream, i, t, n);
                          });
  }
  with_type(p.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const auto elements = [](ConstSpan s) { return Elements<T>{static_cast<const T*>(s.data)}; };
    T* stream = static_cast<T*>(e.stream.data);
    gated_elements(p, row, rows, factors, elements(p.x), elements(e.residual),
                   [&](int64_t i, Vec::F t, auto n) { Vec::store(stream + i, t, n); });
  });
}
