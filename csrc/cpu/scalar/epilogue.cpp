#include "bnn/with_type.h"
#include "cpu/ukernels.h"

namespace bnn::cpu::scalar {
namespace {

float load(ConstSpan s, int64_t i) {
  float v = 0.0f;
  with_type(s.dtype, [&](auto tag) { v = to_float(static_cast<const decltype(tag)*>(s.data)[i]); });
  return v;
}

void store(Span s, int64_t i, float v) {
  with_type(s.dtype, [&](auto tag) { from_float(v, static_cast<decltype(tag)*>(s.data)[i]); });
}

}  // namespace

void epilogue_scaled(const Epilogue& e, const int32_t* dot, int64_t ld, int64_t row, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < e.channels; ++k) {
      const float acc = static_cast<float>(dot[r * ld + k]);
      store(e.y, (row + r) * e.channels + k, e.alpha ? e.alpha[k] * acc : acc);
    }
  }
}

void epilogue_fused(const Epilogue& e, const int32_t* dot, int64_t ld, int64_t row, int64_t rows) {
  const int64_t K = e.channels, L = words_for(K);
  for (int64_t r = 0; r < rows; ++r) {
    uint64_t word = 0;
    for (int64_t k = 0; k < K; ++k) {
      const int64_t i = (row + r) * K + k;
      float y = e.scale[k] * static_cast<float>(dot[r * ld + k]) + e.bias[k];
      if (e.residual) y += load(e.residual, i);
      if (e.rprelu) {
        const float t = y + e.rprelu[k];
        y = (t > 0.0f ? t : e.rprelu[K + k] * t) + e.rprelu[2 * K + k];
      }
      if (e.stream) store(e.stream, i, y);
      if (!e.words) continue;
      word |= uint64_t{y + (e.next_shift ? e.next_shift[k] : 0.0f) < 0.0f} << (k % kWordBits);
      if (k % kWordBits == kWordBits - 1 || k == K - 1) {
        e.words[(row + r) * L + k / kWordBits] = word;
        word = 0;
      }
    }
  }
}

}  // namespace bnn::cpu::scalar
