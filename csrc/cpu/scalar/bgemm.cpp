#include "cpu/ukernels.h"

namespace bnn::cpu::scalar {

void bgemm(const uint64_t* a, int64_t pixels, int64_t words, const uint64_t* panel, const int32_t* const* base,
           int64_t column, int32_t* dot, int64_t ld) {
  for (int64_t p = 0; p < pixels; ++p) {
    int32_t mismatches[kPanel] = {};
    for (int64_t j = 0; j < words; ++j) {
      for (int k = 0; k < kPanel; ++k) mismatches[k] += popcount(a[p * words + j] ^ panel[j * kPanel + k]);
    }
    for (int k = 0; k < kPanel; ++k) dot[p * ld + k] = base[p][column + k] - 2 * mismatches[k];
  }
}

void bgemv(const uint64_t* a, const uint64_t* w, int64_t words, int64_t filters, int32_t bits, int32_t* dot) {
  for (int64_t k = 0; k < filters; ++k) {
    int32_t mismatches = 0;
    for (int64_t j = 0; j < words; ++j) mismatches += popcount(a[j] ^ w[k * words + j]);
    dot[k] = bits - 2 * mismatches;
  }
}

void counters_to_dot(const uint64_t* planes, int count, int32_t taps, int32_t* dot) {
  for (int c = 0; c < kWordBits; ++c) {
    int32_t mismatches = 0;
    for (int b = 0; b < count; ++b) mismatches += static_cast<int32_t>((planes[b] >> c) & 1) << b;
    dot[c] = taps - 2 * mismatches;
  }
}

}  // namespace bnn::cpu::scalar
