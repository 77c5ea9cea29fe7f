#include "cpu/scalar/elements.h"
#include "cpu/ukernels.h"

namespace bnn::cpu::scalar {

void epilogue_scaled(const Epilogue& e, const Dots& dots, const OutputPart& part) {
  dots.visit([&](const auto* dot) {
    for (int64_t r = 0; r < part.rows; ++r) {
      for (int64_t j = 0; j < part.channels; ++j) {
        const int64_t k = part.channel + j;
        const float acc = static_cast<float>(dot[r * dots.ld + j]);
        store(e.y, (part.row + r) * e.channels + k, e.alpha ? e.alpha[k] * acc : acc);
      }
    }
  });
}

void epilogue_fused(const Epilogue& e, const Dots& dots, const OutputPart& part) {
  const int64_t K = e.channels, L = words_for(K);
  dots.visit([&](const auto* dot) {
    for (int64_t r = 0; r < part.rows; ++r, dot += dots.ld) {
      uint64_t word = 0;
      for (int64_t j = 0; j < part.channels; ++j) {
        const int64_t k = part.channel + j, i = (part.row + r) * K + k;
        float y = e.scale[k] * static_cast<float>(dot[j]) + e.bias[k];
        if (e.residual) y += load(e.residual, i);
        if (e.rprelu) {
          const float t = y + e.rprelu[k];
          y = (t > 0.0f ? t : e.rprelu[K + k] * t) + e.rprelu[2 * K + k];
        }
        if (e.stream) store(e.stream, i, y);
        if (!e.words) continue;
        word |= uint64_t{y + (e.next_shift ? e.next_shift[k] : 0.0f) < 0.0f} << (k % kWordBits);
        if (k % kWordBits == kWordBits - 1 || k == K - 1) {
          e.words[(part.row + r) * L + k / kWordBits] = word;
          word = 0;
        }
      }
    }
  });
}

bool sign_limits(const Epilogue&, int64_t, int32_t*, uint64_t*) { return false; }

}  // namespace bnn::cpu::scalar
