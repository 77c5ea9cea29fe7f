#include <algorithm>
#include <cmath>

#include "bnn/with_type.h"
#include "cpu/avx512/vec.h"
#include "cpu/ukernels.h"

BNN_AVX512_BEGIN

namespace bnn::cpu::avx512 {
#include "cpu/generic/int8_conv2d.inl"

namespace {

constexpr int kTile = 6;

// P pixels x B panels: P B accumulators, B panels' weights and one pixel's bytes in registers.
template <int B, int P>
void tile(const ByteProducts& q, int64_t first, const int8_t* panels, int32_t* dot) {
  const int64_t panel_bytes = (1 + q.runs * q.run) * kPanelBytes, step = q.step;
  __m512i sums[P][B];
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b) {
    const __m512i start = _mm512_loadu_si512(panels + b * panel_bytes);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) sums[p][b] = start;
  }
  const int8_t* w = panels + kPanelBytes;
  for (int64_t r = 0; r < q.runs; ++r) {
    const uint8_t* a = q.rows[r] + first * step;
    for (int64_t t = q.run; t > 0; --t, a += 4, w += kPanelBytes) {
      __m512i weights[B];
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) weights[b] = _mm512_loadu_si512(w + b * panel_bytes);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const __m512i bytes = _mm512_set1_epi32(load_four(a + p * step));
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) sums[p][b] = _mm512_dpbusd_epi32(sums[p][b], bytes, weights[b]);
      }
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) _mm512_storeu_si512(dot + (first + p) * q.ld + b * kPanel, sums[p][b]);
  }
}

using tile_fn = void(const ByteProducts& q, int64_t first, const int8_t* panels, int32_t* dot);

// Pixels in tiles of nearly the same size
template <int B>
void some_panels(const ByteProducts& q, const int8_t* panels, int32_t* dot) {
  constexpr tile_fn* kTiles[] = {tile<B, 1>, tile<B, 2>, tile<B, 3>, tile<B, 4>, tile<B, 5>, tile<B, 6>};
  const int64_t tiles = ceil_div(q.pixels, kTile);
  for (int64_t i = 0, first = 0; i < tiles; ++i) {
    const int64_t pixels = (q.pixels - first) / (tiles - i);
    kTiles[pixels - 1](q, first, panels, dot);
    first += pixels;
  }
}

}  // namespace

void byte_products(const ByteProducts& q) {
  const int64_t panel_bytes = (1 + q.runs * q.run) * kPanelBytes;
  int64_t panel = 0;
  const auto next = [&](auto f, int64_t count) {
    f(q, q.panels + panel * panel_bytes, q.dot + panel * kPanel);
    panel += count;
  };
  while (panel + 4 <= q.count) next(some_panels<4>, 4);
  if (panel + 2 <= q.count) next(some_panels<2>, 2);
  if (panel < q.count) next(some_panels<1>, 1);
}

void maxima(const int32_t* const* rows, int64_t count, int64_t groups, int64_t step, int64_t n, int32_t* to) {
  const int32_t *a = rows[0], *b = rows[count > 1], *c = rows[count > 2 ? 2 : 0];
  for (int64_t g = 0, skipped = 0; g < groups; ++g, skipped += step, to += n) {
    for (int64_t i = 0; i < n; i += 16) {
      const int64_t at = skipped + i;
      const __m512i two = _mm512_max_epi32(_mm512_loadu_si512(a + at), _mm512_loadu_si512(b + at));
      __m512i largest = _mm512_max_epi32(two, _mm512_loadu_si512(c + at));
      for (int64_t j = 3; j < count; ++j) largest = _mm512_max_epi32(largest, _mm512_loadu_si512(rows[j] + at));
      _mm512_storeu_si512(to + i, largest);
    }
  }
}

}  // namespace bnn::cpu::avx512

BNN_TARGET_END
