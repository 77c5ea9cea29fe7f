#include <algorithm>
#include <cmath>

#include "bnn/with_type.h"
#include "cpu/avx2/vec.h"
#include "cpu/ukernels.h"

BNN_AVX2_BEGIN

namespace bnn::cpu::avx2 {
#include "cpu/generic/int8_conv2d.inl"

namespace {

constexpr int kTile = 2;

inline __m256i load(const int32_t* sums) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(sums)); }

// P pixels x 16 filters, in 16 bits a factor: a sum of four products is two lanes, for a filter, until the end.
template <int P>
void tile(const ByteProducts& q, int64_t first, const int8_t* panel, int32_t* dot) {
  __m256i sums[P][4];
#pragma GCC unroll 2
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sums[p][i] = _mm256_setzero_si256();
  }
  const int8_t* w = panel + kPanelBytes;
  for (int64_t r = 0; r < q.runs; ++r) {
    const uint8_t* a = q.rows[r] + first * q.step;
    for (int64_t t = q.run; t > 0; --t, a += 4) {
      __m256i bytes[P];
#pragma GCC unroll 2
      for (int p = 0; p < P; ++p) bytes[p] = _mm256_cvtepu8_epi16(_mm_set1_epi32(load_four(a + p * q.step)));
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i, w += 16) {
        const __m256i weights = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w)));
#pragma GCC unroll 2
        for (int p = 0; p < P; ++p) sums[p][i] = _mm256_add_epi32(sums[p][i], _mm256_madd_epi16(bytes[p], weights));
      }
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      // filters 0 1 4 5 2 3 6 7
      const __m256i pairs = _mm256_hadd_epi32(sums[p][2 * half], sums[p][2 * half + 1]);
      const __m256i start = load(reinterpret_cast<const int32_t*>(panel) + 8 * half);
      const __m256i sum = _mm256_add_epi32(start, _mm256_permute4x64_epi64(pairs, _MM_SHUFFLE(3, 1, 2, 0)));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(dot + (first + p) * q.ld + 8 * half), sum);
    }
  }
}

}  // namespace

void byte_products(const ByteProducts& q) {
  const int64_t panel_bytes = (1 + q.runs * q.run) * kPanelBytes;
  for (int64_t panel = 0; panel < q.count; ++panel) {
    const int8_t* weights = q.panels + panel * panel_bytes;
    int32_t* dot = q.dot + panel * kPanel;
    int64_t p = 0;
    for (; p + kTile <= q.pixels; p += kTile) tile<kTile>(q, p, weights, dot);
    if (p < q.pixels) tile<1>(q, p, weights, dot);
  }
}

void maxima(const int32_t* const* rows, int64_t count, int64_t groups, int64_t step, int64_t n, int32_t* to) {
  const int32_t *a = rows[0], *b = rows[count > 1], *c = rows[count > 2 ? 2 : 0];
  for (int64_t g = 0, skipped = 0; g < groups; ++g, skipped += step, to += n) {
    for (int64_t i = 0; i < n; i += 8) {
      const int64_t at = skipped + i;
      __m256i largest = _mm256_max_epi32(_mm256_max_epi32(load(a + at), load(b + at)), load(c + at));
      for (int64_t j = 3; j < count; ++j) largest = _mm256_max_epi32(largest, load(rows[j] + at));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), largest);
    }
  }
}

}  // namespace bnn::cpu::avx2

BNN_TARGET_END
