#include "cpu/generic/rows.inl"

template <class T>
inline void pack_rows(const T* x, const float* shift, int64_t rows, int64_t channels, uint64_t* words) {
  const Vec::F zero = Vec::all(0.0f);
  for (int64_t row = 0; row < rows; ++row, x += channels) {
    for (int64_t c = 0; c < channels; c += kWordBits) {
      *words++ = word_of(std::min<int64_t>(kWordBits, channels - c),
                         [&](int64_t i, auto n) { return Vec::less(load_shifted(x, shift, c + i, n), zero); });
    }
  }
}

void bitpack(ConstSpan x, const float* shift, int64_t rows, int64_t channels, uint64_t* words) {
  with_type(x.dtype,
            [&](auto tag) { pack_rows(static_cast<const decltype(tag)*>(x.data), shift, rows, channels, words); });
}

template <class T>
inline void unpack_rows(const uint64_t* words, int64_t rows, int64_t channels, T plus, T minus, T* y) {
  const int64_t L = words_for(channels);
  for (int64_t row = 0; row < rows; ++row, words += L, y += channels) {
    int64_t c = 0;
    for (; c + 16 <= channels; c += 16) Vec::expand(words[c / kWordBits] >> (c % kWordBits), plus, minus, y + c);
    if (c == channels) continue;
    T tail[16];
    Vec::expand(words[c / kWordBits] >> (c % kWordBits), plus, minus, tail);
    std::memcpy(y + c, tail, static_cast<size_t>(channels - c) * sizeof(T));
  }
}

void bitunpack(const uint64_t* words, int64_t rows, int64_t channels, Span y) {
  switch (y.dtype) {
    case DType::f32:
      return unpack_rows<uint32_t>(words, rows, channels, 0x3f800000, 0xbf800000, static_cast<uint32_t*>(y.data));
    case DType::bf16:
      return unpack_rows<uint16_t>(words, rows, channels, 0x3f80, 0xbf80, static_cast<uint16_t*>(y.data));
    case DType::f16:
      return unpack_rows<uint16_t>(words, rows, channels, 0x3c00, 0xbc00, static_cast<uint16_t*>(y.data));
    case DType::i8:
      return unpack_rows<uint8_t>(words, rows, channels, 0x01, 0xff, static_cast<uint8_t*>(y.data));
  }
}
