#include <immintrin.h>

#include <algorithm>

#include "cpu/target.h"
#include "cpu/ukernels.h"

BNN_AVX512_BEGIN

namespace bnn::cpu::avx512 {
namespace {

constexpr int kTile = 8;

inline __m512i minus_twice(__m512i base, __m512i mismatches) {
  return _mm512_sub_epi32(base, _mm512_slli_epi32(mismatches, 1));
}

// P pixels x 16 filters: 2 P accumulators, two panel words and one pixel word in registers.
template <int P>
void tile(const uint64_t* a, int64_t words, const uint64_t* panel, const int32_t* const* base, int64_t column,
          int32_t* dot, int64_t ld) {
  __m512i low[P], high[P];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) low[p] = high[p] = _mm512_setzero_si512();
  for (int64_t j = 0; j < words; ++j) {
    const __m512i w0 = _mm512_loadu_si512(panel + j * kPanel);
    const __m512i w1 = _mm512_loadu_si512(panel + j * kPanel + 8);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const __m512i v = _mm512_set1_epi64(static_cast<int64_t>(a[p * words + j]));
      low[p] = _mm512_add_epi64(low[p], _mm512_popcnt_epi64(_mm512_xor_si512(v, w0)));
      high[p] = _mm512_add_epi64(high[p], _mm512_popcnt_epi64(_mm512_xor_si512(v, w1)));
    }
  }
  // The even 32-bit halves of both accumulators: 16 counts.
  const __m512i halves = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    const __m512i mismatches = _mm512_permutex2var_epi32(low[p], halves, high[p]);
    _mm512_storeu_si512(dot + p * ld, minus_twice(_mm512_loadu_si512(base[p] + column), mismatches));
  }
}

using tile_fn = void(const uint64_t*, int64_t, const uint64_t*, const int32_t* const*, int64_t, int32_t*, int64_t);
constexpr tile_fn* kTiles[kTile] = {nullptr, tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>, tile<7>};

}  // namespace

void bgemm(const uint64_t* a, int64_t pixels, int64_t words, const uint64_t* panel, const int32_t* const* base,
           int64_t column, int32_t* dot, int64_t ld) {
  int64_t p = 0;
  for (; p + kTile <= pixels; p += kTile) {
    tile<kTile>(a + p * words, words, panel, base + p, column, dot + p * ld, ld);
  }
  if (p < pixels) kTiles[pixels - p](a + p * words, words, panel, base + p, column, dot + p * ld, ld);
}

void bgemv(const uint64_t* a, const uint64_t* w, int64_t words, int64_t filters, int32_t bits, int32_t* dot) {
  for (int64_t k = 0; k < filters; ++k, w += words) {
    __m512i sum = _mm512_setzero_si512();
    int64_t j = 0;
    for (; j + 8 <= words; j += 8) {
      const __m512i diff = _mm512_xor_si512(_mm512_loadu_si512(a + j), _mm512_loadu_si512(w + j));
      sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(diff));
    }
    if (j < words) {
      const __mmask8 rest = static_cast<__mmask8>((1u << (words - j)) - 1u);
      const __m512i diff =
          _mm512_xor_si512(_mm512_maskz_loadu_epi64(rest, a + j), _mm512_maskz_loadu_epi64(rest, w + j));
      sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(diff));
    }
    dot[k] = bits - 2 * static_cast<int32_t>(_mm512_reduce_add_epi64(sum));
  }
}

void counters_to_dot(const uint64_t* planes, int count, int32_t taps, int32_t* dot) {
  const __m512i total = _mm512_set1_epi32(taps);
  if (count < 8) {  // the counts of all 64 channels fit in bytes
    __m512i bytes = _mm512_setzero_si512();
    for (int b = 0; b < count; ++b) {
      bytes = _mm512_mask_add_epi8(bytes, planes[b], bytes, _mm512_set1_epi8(static_cast<char>(1 << b)));
    }
    const __m128i quarters[] = {_mm512_castsi512_si128(bytes), _mm512_extracti32x4_epi32(bytes, 1),
                                _mm512_extracti32x4_epi32(bytes, 2), _mm512_extracti32x4_epi32(bytes, 3)};
    for (int q = 0; q < 4; ++q) {
      _mm512_storeu_si512(dot + 16 * q, minus_twice(total, _mm512_cvtepu8_epi32(quarters[q])));
    }
    return;
  }
  for (int c = 0; c < kWordBits; c += 16) {
    __m512i mismatches = _mm512_setzero_si512();
    for (int b = 0; b < count; ++b) {
      const __mmask16 set = static_cast<__mmask16>(planes[b] >> c);
      mismatches = _mm512_mask_add_epi32(mismatches, set, mismatches, _mm512_set1_epi32(1 << b));
    }
    _mm512_storeu_si512(dot + c, minus_twice(total, mismatches));
  }
}

}  // namespace bnn::cpu::avx512

BNN_TARGET_END
