#include <algorithm>
#include <cmath>
#include <cstring>

#include "bnn/with_type.h"
#include "cpu/ukernels.h"

namespace bnn::cpu::scalar {

float max_abs(ConstSpan x, int64_t n) {
  return with_type(x.dtype, [&](auto tag) {
    const auto* v = static_cast<const decltype(tag)*>(x.data);
    float largest = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float magnitude = std::fabs(to_float(v[i]));
      largest = magnitude <= largest ? largest : std::isnan(magnitude) ? HUGE_VALF : magnitude;
    }
    return largest;
  });
}

void to_bytes(ConstSpan x, int64_t n, float inverse, uint8_t* bytes) {
  with_type(x.dtype, [&](auto tag) {
    const auto* v = static_cast<const decltype(tag)*>(x.data);
    for (int64_t i = 0; i < n; ++i) {
      const float product = to_float(v[i]) * inverse;
      const float inside = std::fabs(product) <= 127.5f ? product : 0.0f;
      bytes[i] = static_cast<uint8_t>(std::nearbyint(inside + 128.0f));
    }
  });
}

void byte_products(const ByteProducts& q) {
  const int64_t panel_bytes = (1 + q.runs * q.run) * kPanelBytes;
  for (int64_t p = 0; p < q.pixels; ++p) {
    for (int64_t panel = 0; panel < q.count; ++panel) {
      const int8_t* w = q.panels + panel * panel_bytes;
      uint32_t sums[kPanel];
      std::memcpy(sums, w, sizeof(sums));
      for (int64_t r = 0; r < q.runs; ++r) {
        const uint8_t* a = q.rows[r] + p * q.step;
        for (int64_t t = 0; t < q.run; ++t, a += 4) {
          w += kPanelBytes;
          for (int k = 0; k < kPanel; ++k) {
            const int8_t* four = w + 4 * k;
            sums[k] += static_cast<uint32_t>(a[0] * four[0] + a[1] * four[1] + a[2] * four[2] + a[3] * four[3]);
          }
        }
      }
      std::memcpy(q.dot + p * q.ld + panel * kPanel, sums, sizeof(sums));
    }
  }
}

void maxima(const int32_t* const* rows, int64_t count, int64_t groups, int64_t step, int64_t n, int32_t* to) {
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t i = 0; i < n; ++i) {
      int32_t largest = rows[0][g * step + i];
      for (int64_t j = 1; j < count; ++j) largest = std::max(largest, rows[j][g * step + i]);
      to[g * n + i] = largest;
    }
  }
}

}  // namespace bnn::cpu::scalar
