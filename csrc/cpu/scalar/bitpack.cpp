#include <algorithm>

#include "bnn/with_type.h"
#include "cpu/ukernels.h"

namespace bnn::cpu::scalar {

void bitpack(ConstSpan x, const float* shift, int64_t rows, int64_t channels, uint64_t* words) {
  const int64_t L = words_for(channels);
  with_type(x.dtype, [&](auto tag) {
    const auto* v = static_cast<const decltype(tag)*>(x.data);
    for (int64_t row = 0; row < rows; ++row, v += channels, words += L) {
      std::fill_n(words, L, uint64_t{0});
      for (int64_t c = 0; c < channels; ++c) {
        const bool negative = to_float(v[c]) + (shift ? shift[c] : 0.0f) < 0.0f;
        words[c / kWordBits] |= uint64_t{negative} << (c % kWordBits);
      }
    }
  });
}

template <class T>
static void unpack_rows(const uint64_t* words, int64_t rows, int64_t channels, T plus, T minus, void* out) {
  const int64_t L = words_for(channels);
  T* y = static_cast<T*>(out);
  for (int64_t row = 0; row < rows; ++row, words += L, y += channels) {
    for (int64_t c = 0; c < channels; ++c) y[c] = (words[c / kWordBits] >> (c % kWordBits)) & 1 ? minus : plus;
  }
}

void bitunpack(const uint64_t* words, int64_t rows, int64_t channels, Span y) {
  switch (y.dtype) {
    case DType::f32:
      return unpack_rows<uint32_t>(words, rows, channels, 0x3f800000, 0xbf800000, y.data);
    case DType::bf16:
      return unpack_rows<uint16_t>(words, rows, channels, 0x3f80, 0xbf80, y.data);
    case DType::f16:
      return unpack_rows<uint16_t>(words, rows, channels, 0x3c00, 0xbc00, y.data);
    case DType::i8:
      return unpack_rows<uint8_t>(words, rows, channels, 0x01, 0xff, y.data);
  }
}

}  // namespace bnn::cpu::scalar
