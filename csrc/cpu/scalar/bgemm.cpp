#include <cstring>

#include "cpu/ukernels.h"

namespace bnn::cpu::scalar {

void bgemm(const PanelProducts& q) {
  for (int64_t p = 0; p < q.pixels; ++p) {
    uint32_t mismatches[kPanel] = {};
    const uint64_t *a = q.windows[p], *w = q.panel;
    for (int64_t r = 0; r < q.runs; ++r, a += q.step, w += q.panel_step * kPanel) {
      for (int64_t j = 0; j < q.run; ++j) {
        for (int k = 0; k < kPanel; ++k) {
          mismatches[k] += static_cast<uint32_t>(popcount(a[j] ^ w[j * kPanel + k]));
        }
      }
    }
    const int64_t row = q.rows == nullptr ? p : q.rows[p];
    const int32_t* start = q.base + (q.rows == nullptr ? q.row_base[p] : 0);
    if (q.bits == nullptr) {
      for (int k = 0; k < kPanel; ++k) {
        q.dot[row * q.ld + k] = static_cast<int32_t>(static_cast<uint32_t>(start[k]) - 2 * mismatches[k]);
      }
      continue;
    }
    uint16_t bits = q.falling;
    for (int k = 0; k < kPanel; ++k) {
      bits ^= static_cast<uint16_t>((static_cast<int32_t>(mismatches[k]) > start[k] ? 1 : 0) << k);
    }
    std::memcpy(q.bits + row * q.bits_step, &bits, sizeof(bits));
  }
}

void bgemv(const uint64_t* a, const uint64_t* w, int64_t words, int64_t filters, int32_t bits, int32_t* dot) {
  for (int64_t k = 0; k < filters; ++k) {
    int32_t mismatches = 0;
    for (int64_t j = 0; j < words; ++j) mismatches += popcount(a[j] ^ w[k * words + j]);
    dot[k] = bits - 2 * mismatches;
  }
}

void counters_to_dot(const uint64_t* planes, int64_t step, int count, int32_t taps, int32_t* dot) {
  for (int c = 0; c < kWordBits; ++c) {
    int32_t mismatches = 0;
    for (int b = 0; b < count; ++b) mismatches += static_cast<int32_t>((planes[b * step] >> c) & 1) << b;
    dot[c] = taps - 2 * mismatches;
  }
}

}  // namespace bnn::cpu::scalar
