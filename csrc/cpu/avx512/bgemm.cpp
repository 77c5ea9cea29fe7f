#include <immintrin.h>

#include <cstring>

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
template <bool kBits, bool kRows, int P>
void tile(const PanelProducts& q, int64_t first) {
  const uint64_t* a[P];
  __m512i low[P], high[P];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    a[p] = q.windows[first + p];
    low[p] = high[p] = _mm512_setzero_si512();
  }
  const uint64_t* w = q.panel;
  [[maybe_unused]] const int64_t ahead = q.next_panel;
  const int64_t skipped = (q.panel_step - q.run) * kPanel;
  for (int64_t start = 0, r = q.runs; r > 0; --r, start += q.step, w += skipped) {
    const int64_t end = start + q.run;
    for (int64_t j = start; j < end; ++j, w += kPanel) {
      const __m512i w0 = _mm512_loadu_si512(w), w1 = _mm512_loadu_si512(w + 8);
      if constexpr (kRows) {  // images are small, so the next panel is soon wanted
        _mm_prefetch(w + ahead, _MM_HINT_T0);
        _mm_prefetch(w + ahead + 8, _MM_HINT_T0);
      }
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const __m512i v = _mm512_set1_epi64(static_cast<int64_t>(a[p][j]));
        low[p] = _mm512_add_epi64(low[p], _mm512_popcnt_epi64(_mm512_xor_si512(v, w0)));
        high[p] = _mm512_add_epi64(high[p], _mm512_popcnt_epi64(_mm512_xor_si512(v, w1)));
      }
    }
  }
  // The even 32-bit halves of both accumulators: 16 counts.
  const __m512i halves = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const int64_t step = kBits ? q.bits_step : q.ld;
  const int32_t* base = q.base;
  const int32_t* at = (kRows ? q.rows : q.row_base) + first;
  [[maybe_unused]] const unsigned falling = q.falling;
  [[maybe_unused]] uint8_t* bits = q.bits + (kRows ? 0 : first * step);
  [[maybe_unused]] int32_t* dot = q.dot + (kRows ? 0 : first * step);
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
    const __m512i mismatches = _mm512_permutex2var_epi32(low[p], halves, high[p]);
    const __m512i start = _mm512_loadu_si512(base + (kRows ? 0 : at[p]));
    if constexpr (kBits) {
      const auto more = static_cast<uint16_t>(_mm512_cmpgt_epi32_mask(mismatches, start) ^ falling);
      std::memcpy(kRows ? bits + at[p] * step : bits, &more, sizeof(more));
      bits += kRows ? 0 : step;
    } else {
      _mm512_storeu_si512(kRows ? dot + at[p] * step : dot, minus_twice(start, mismatches));
      dot += kRows ? 0 : step;
    }
  }
}

using tile_fn = void(const PanelProducts& q, int64_t first);

template <bool kBits, bool kRows>
void panel_products(const PanelProducts& q) {
  constexpr tile_fn* kSome[] = {nullptr,
                                tile<kBits, kRows, 1>,
                                tile<kBits, kRows, 2>,
                                tile<kBits, kRows, 3>,
                                tile<kBits, kRows, 4>,
                                tile<kBits, kRows, 5>,
                                tile<kBits, kRows, 6>,
                                tile<kBits, kRows, 7>,
                                tile<kBits, kRows, kTile>};
  // What is left of two tiles goes in halves: one pixel alone reads the panel as long as four.
  int64_t p = 0;
  for (; p + 2 * kTile <= q.pixels; p += kTile) tile<kBits, kRows, kTile>(q, p);
  if (q.pixels - p > kTile) {
    const int64_t half = (q.pixels - p) / 2;
    kSome[half](q, p);
    p += half;
  }
  if (p < q.pixels) kSome[q.pixels - p](q, p);
}

template <bool kBits>
void panel_products(const PanelProducts& q) {
  q.rows != nullptr ? panel_products<kBits, true>(q) : panel_products<kBits, false>(q);
}

}  // namespace

void bgemm(const PanelProducts& q) { q.bits != nullptr ? panel_products<true>(q) : panel_products<false>(q); }

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

void counters_to_dot(const uint64_t* planes, int64_t step, int count, int32_t taps, int32_t* dot) {
  const __m512i total = _mm512_set1_epi32(taps);
  if (count < 8) {  // the counts of all 64 channels fit in bytes
    __m512i bytes = _mm512_setzero_si512();
    for (int b = 0; b < count; ++b) {
      bytes = _mm512_mask_add_epi8(bytes, planes[b * step], bytes, _mm512_set1_epi8(static_cast<char>(1 << b)));
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
      const __mmask16 set = static_cast<__mmask16>(planes[b * step] >> c);
      mismatches = _mm512_mask_add_epi32(mismatches, set, mismatches, _mm512_set1_epi32(1 << b));
    }
    _mm512_storeu_si512(dot + c, minus_twice(total, mismatches));
  }
}

}  // namespace bnn::cpu::avx512

BNN_TARGET_END
