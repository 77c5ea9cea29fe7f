#include <immintrin.h>

#include <algorithm>

#include "cpu/target.h"
#include "cpu/ukernels.h"

BNN_AMX_BEGIN

namespace bnn::cpu::amx {
namespace {

// rows[i][c] -> columns[c][i], 32-bit elements
inline void transpose(__m512i (&v)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    v[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    v[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    v[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// 32 channels of 32 filters, two in a lane: half the codes of a tile
inline void code_half(__m512i first, __m512i second, uint64_t* codes) {
  constexpr int kSelect = 0xca;  // a ? b : c
  constexpr __mmask32 kHigh = 0xaaaaaaaa;
  const __m512i pairs = _mm512_set1_epi8(0x33);
  const __m512i even = _mm512_ternarylogic_epi32(pairs, first, _mm512_slli_epi32(second, 2), kSelect);
  const __m512i odd = _mm512_ternarylogic_epi32(pairs, _mm512_srli_epi32(first, 2), second, kSelect);
  _mm512_storeu_si512(codes, _mm512_mask_mov_epi16(even, kHigh, _mm512_slli_epi32(odd, 16)));
  _mm512_storeu_si512(codes + 8, _mm512_mask_mov_epi16(_mm512_srli_epi32(even, 16), kHigh, odd));
}

// 8 words of 32 filters -> 16 halves of words, a column in a lane, its two filters apart
struct Halves {
  __m512i first[16], second[16];

  Halves(const FilterWords& f, int64_t filter, int64_t word) {
    const __mmask8 some = static_cast<__mmask8>(low_bits(std::min<int64_t>(8, f.steps - word)));
    const __m512i valid = f.valid == nullptr ? _mm512_set1_epi64(-1) : _mm512_maskz_loadu_epi64(some, f.valid + word);
    const auto load = [&](int64_t k, __m512i(&v)[16]) {
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i, k += i % 4 == 0 ? 5 : 1) {
        v[i] = _mm512_and_si512(valid, _mm512_maskz_loadu_epi64(some, f.row(k) + word));
      }
      transpose(v);
    };
    load(filter, first);
    load(filter + 4, second);
  }

  void code(int64_t i, uint64_t* codes) const {
    code_half(first[2 * i], second[2 * i], codes);
    code_half(first[2 * i + 1], second[2 * i + 1], codes + kCodeWords / 2);
  }

  // Of word i, 16 bits a filter
  __m512i ones(int64_t i) const {
    const auto count = [i](const __m512i(&v)[16]) {
      return _mm512_add_epi32(_mm512_popcnt_epi32(v[2 * i]), _mm512_popcnt_epi32(v[2 * i + 1]));
    };
    return _mm512_packs_epi32(count(first), count(second));
  }
};

}  // namespace

// Ones in a second pass: stores to both in turns take twice as long where the bytes are not in L1.
void expand_pixels(const uint64_t* words, int64_t step, int64_t pixels, int64_t channels, uint8_t* bytes,
                   int16_t* ones) {
  const int64_t full = channels / kWordBits;
  const uint64_t rest = low_bits(channels % kWordBits);
  const __m512i one = _mm512_set1_epi8(1);
  const bool dense = rest == 0 && step == full;
  const int64_t runs = dense ? 1 : pixels, run = dense ? pixels * full : full;
  const uint64_t* word = words;
  for (int64_t i = 0; i < runs; ++i, word += step, bytes += channels) {
    for (int64_t j = 0; j < run; ++j) _mm512_storeu_si512(bytes + kWordBits * j, _mm512_maskz_mov_epi8(word[j], one));
    if (rest != 0) _mm512_mask_storeu_epi8(bytes + kWordBits * full, rest, _mm512_maskz_mov_epi8(word[full], one));
  }
  if (channels == kWordBits) {
    for (int64_t i = 0; i < pixels; ++i) ones[i] = static_cast<int16_t>(_mm_popcnt_u64(words[i * step]));
    return;
  }
  for (int64_t i = 0; i < pixels; ++i, words += step) {
    int64_t count = rest != 0 ? _mm_popcnt_u64(words[full] & rest) : 0;
    for (int64_t j = 0; j < full; ++j) {
      count += _mm_popcnt_u64(words[j]);
      asm("" : "+r"(count));  // a few words are no vectors
    }
    ones[i] = static_cast<int16_t>(count);
  }
}

void count_window(const int16_t* ones, const int64_t* taps, int64_t count, int64_t rows, int32_t* row_add) {
  const __m512i twice = _mm512_set1_epi32(0x10001);
  for (int64_t i = 0; i < rows; i += kTogether) {
    __m512i sums = _mm512_setzero_si512();
    for (int64_t t = 0; t < count; ++t) sums = _mm512_sub_epi16(sums, _mm512_loadu_si512(ones + i + taps[t]));
    sums = _mm512_add_epi16(sums, sums);
    const auto store = [&](int64_t at, __m256i half) {
      _mm512_storeu_si512(row_add + at, _mm512_mullo_epi32(_mm512_cvtepu16_epi32(half), twice));
    };
    store(i, _mm512_castsi512_si256(sums));
    store(i + 16, _mm512_extracti64x4_epi64(sums, 1));
  }
}

void pack_filters(const FilterWords& f, const PackedPanel& panel, uint8_t* counts) {
  const int64_t tiles = tiles_of(f.filters);
  for (int64_t t = 0; t < tiles; ++t) {
    for (int64_t word = 0; word < f.steps; word += 8) {
      const Halves halves(f, t * kTileFilters, word);
      for (int64_t w = word; w < std::min(word + 8, f.steps); ++w) {
        halves.code(w - word, panel.codes + (f.place[w] * tiles + t) * kCodeWords);
        __m512i count = halves.ones(w - word);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(counts + f.place[w] * kWordBits + t * kTileFilters),
                            _mm512_cvtepi16_epi8(count));
        if (f.tap_words == 0) continue;
        int16_t* sums = panel.ones + w / f.tap_words * kWordBits + t * kTileFilters;
        if (w % f.tap_words != 0) count = _mm512_add_epi16(count, _mm512_loadu_si512(sums));
        _mm512_storeu_si512(sums, count);
      }
    }
  }
  const __mmask64 some = tiles == 2 ? ~__mmask64{0} : 0xffffffff;
  const __m512i most = _mm512_set1_epi8(static_cast<char>(kMostOnes));
  __m512i group = _mm512_setzero_si512();
  for (int64_t s = 0, begin = 0; s < f.steps; ++s) {
    const __m512i count = _mm512_maskz_loadu_epi8(some, counts + s * kWordBits);
    group = _mm512_adds_epu8(group, count);
    const bool full = s - begin == kMostSteps || _mm512_cmpgt_epu8_mask(group, most) != 0;
    if (full) group = count, begin = s;
    panel.groups[s] = full || s == 0;
  }
}

}  // namespace bnn::cpu::amx

BNN_TARGET_END
