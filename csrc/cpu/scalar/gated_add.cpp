#include "cpu/scalar/elements.h"
#include "cpu/ukernels.h"

namespace bnn::cpu::scalar {

void gated_rows(const GatedAdd& p, int64_t image, int64_t row, int64_t rows, float* factors) {
  const Epilogue& e = p.epilogue;
  const int64_t C = e.channels, L = words_for(C);
  for (int64_t c = 0; c < C; ++c) factors[c] = load(p.gate, image * C + c) * e.scale[c];
  for (const int64_t end = row + rows; row < end; ++row) {
    uint64_t word = 0;
    for (int64_t c = 0; c < C; ++c) {
      const int64_t i = row * C + c;
      const float r = load(e.residual, i);
      float t = factors[c] * load(p.x, i);
      if (p.multiply) t *= r;
      t = t + e.bias[c] + r;
      if (e.stream) store(e.stream, i, t);
      if (!e.words) continue;
      word |= uint64_t{t + (e.next_shift ? e.next_shift[c] : 0.0f) < 0.0f} << (c % kWordBits);
      if (c % kWordBits == kWordBits - 1 || c == C - 1) {
        e.words[row * L + c / kWordBits] = word;
        word = 0;
      }
    }
  }
}

}  // namespace bnn::cpu::scalar
