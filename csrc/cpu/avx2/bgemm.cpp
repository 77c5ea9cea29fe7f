#include <immintrin.h>

#include <algorithm>

#include "cpu/target.h"
#include "cpu/ukernels.h"

BNN_AVX2_BEGIN

namespace bnn::cpu::avx2 {
namespace {

constexpr int kTile = 2;
constexpr int64_t kFlush = 31;  // a byte counter holds 31 words of at most 8 bits

inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

// Set bits of every byte, by nibbles.
inline __m256i popcount_bytes(__m256i v) {
  const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                          0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(0x0f);
  const __m256i low = _mm256_shuffle_epi8(counts, _mm256_and_si256(v, nibble));
  const __m256i high = _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble));
  return _mm256_add_epi8(low, high);
}

// Four 64-bit sums of bytes
inline __m256i sum_bytes(__m256i v) { return _mm256_sad_epu8(v, _mm256_setzero_si256()); }

// Counts of P pixels x 8 filters (half a panel) on their way from byte counters to 64-bit sums
template <int P>
struct Counts {
  __m256i bytes[P][2], sums[P][2];

  Counts() {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) bytes[p][0] = bytes[p][1] = sums[p][0] = sums[p][1] = _mm256_setzero_si256();
  }

  void flush() {
#pragma GCC unroll 4
    for (int i = 0; i < 2 * P; ++i) {
      sums[i / 2][i % 2] = _mm256_add_epi64(sums[i / 2][i % 2], sum_bytes(bytes[i / 2][i % 2]));
      bytes[i / 2][i % 2] = _mm256_setzero_si256();
    }
  }

  // Counts are below 2^32: the second four move into the odd halves of the first.
  __m256i of_pixel(int p) const {
    const __m256i in_order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    const __m256i both = _mm256_or_si256(sums[p][0], _mm256_slli_epi64(sums[p][1], 32));
    return _mm256_permutevar8x32_epi32(both, in_order);
  }
};

// Filters [8 half, 8 half + 8) of the panel; short windows need no flush on the way.
template <bool kBits, bool kShort, int P>
void half_tile(const PanelProducts& q, int64_t first, int half) {
  const uint64_t* a[P];
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) a[p] = q.windows[first + p];
  const uint64_t* panel = q.panel + 8 * half;
  Counts<P> counts;
  const auto add_words = [&](int64_t begin, int64_t end, const uint64_t* w) __attribute__((always_inline)) {
    for (int64_t j = begin; j < end; ++j, w += kPanel) {
      const __m256i w0 = load(w), w1 = load(w + 4);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        const __m256i v = _mm256_set1_epi64x(static_cast<int64_t>(a[p][j]));
        counts.bytes[p][0] = _mm256_add_epi8(counts.bytes[p][0], popcount_bytes(_mm256_xor_si256(v, w0)));
        counts.bytes[p][1] = _mm256_add_epi8(counts.bytes[p][1], popcount_bytes(_mm256_xor_si256(v, w1)));
      }
    }
  };
  int64_t room = kFlush;
  for (int64_t r = 0, start = 0; r < q.runs; ++r, start += q.step, panel += q.panel_step * kPanel) {
    if constexpr (kShort) {
      add_words(start, start + q.run, panel);
      continue;
    }
    for (int64_t j = 0; j < q.run;) {
      const int64_t count = std::min(q.run - j, room);
      add_words(start + j, start + j + count, panel + j * kPanel);
      j += count, room -= count;
      if (room > 0) continue;
      counts.flush();
      room = kFlush;
    }
  }
  counts.flush();
  // Copies: what is stored might be an argument for all that the compiler knows.
  const bool scattered = q.rows != nullptr;
  const int32_t *at = (scattered ? q.rows : q.row_base) + first, *base = q.base + 8 * half;
  const int64_t step = kBits ? q.bits_step : q.ld;
  [[maybe_unused]] const int falling = q.falling >> 8 * half;
  [[maybe_unused]] uint8_t* bits = q.bits + half;
  [[maybe_unused]] int32_t* dot = q.dot + 8 * half;
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
    const int64_t row = scattered ? at[p] : first + p;
    const __m256i mismatches = counts.of_pixel(p), start = load(base + (scattered ? 0 : at[p]));
    if constexpr (kBits) {
      const int more = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(mismatches, start)));
      bits[row * step] = static_cast<uint8_t>(more ^ falling);
    } else {
      const __m256i out = _mm256_sub_epi32(start, _mm256_slli_epi32(mismatches, 1));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(dot + row * step), out);
    }
  }
}

template <bool kBits, bool kShort, int P>
inline void tile(const PanelProducts& q, int64_t first) {
  half_tile<kBits, kShort, P>(q, first, 0);
  half_tile<kBits, kShort, P>(q, first, 1);
}

template <bool kBits, bool kShort>
void panel_products(const PanelProducts& q) {
  int64_t p = 0;
  for (; p + kTile <= q.pixels; p += kTile) tile<kBits, kShort, kTile>(q, p);
  if (p < q.pixels) tile<kBits, kShort, 1>(q, p);
}

template <bool kBits>
void panel_products(const PanelProducts& q) {
  q.runs* q.run <= kFlush ? panel_products<kBits, true>(q) : panel_products<kBits, false>(q);
}

}  // namespace

void bgemm(const PanelProducts& q) { q.bits != nullptr ? panel_products<true>(q) : panel_products<false>(q); }

void bgemv(const uint64_t* a, const uint64_t* w, int64_t words, int64_t filters, int32_t bits, int32_t* dot) {
  for (int64_t k = 0; k < filters; ++k, w += words) {
    __m256i sum = _mm256_setzero_si256();
    int64_t j = 0;
    for (; j + 4 <= words; j += 4) {
      sum = _mm256_add_epi64(sum, sum_bytes(popcount_bytes(_mm256_xor_si256(load(a + j), load(w + j)))));
    }
    const __m128i halves = _mm_add_epi64(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    auto mismatches = static_cast<int32_t>(_mm_cvtsi128_si64(halves) + _mm_extract_epi64(halves, 1));
    for (; j < words; ++j) mismatches += static_cast<int32_t>(_mm_popcnt_u64(a[j] ^ w[j]));
    dot[k] = bits - 2 * mismatches;
  }
}

void counters_to_dot(const uint64_t* planes, int64_t step, int count, int32_t taps, int32_t* dot) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  for (int c = 0; c < kWordBits; c += 8) {
    __m256i mismatches = _mm256_setzero_si256();
    for (int b = 0; b < count; ++b) {
      const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(planes[b * step] >> c & 0xff)), bit);
      const __m256i one = _mm256_and_si256(_mm256_cmpeq_epi32(set, bit), _mm256_set1_epi32(1));
      mismatches = _mm256_add_epi32(mismatches, _mm256_slli_epi32(one, b));
    }
    const __m256i out = _mm256_sub_epi32(_mm256_set1_epi32(taps), _mm256_slli_epi32(mismatches, 1));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(dot + c), out);
  }
}

}  // namespace bnn::cpu::avx2

BNN_TARGET_END
