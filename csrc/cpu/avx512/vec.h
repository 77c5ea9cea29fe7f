#pragma once

#include <immintrin.h>

#include "bnn/half.h"
#include "cpu/target.h"

BNN_AVX512_BEGIN

namespace bnn::cpu::avx512 {

// The float vocabulary of cpu/generic: 16 lanes, full or the first n. Comparisons with NaN are false.
struct Full {};

struct Vec {
  static constexpr int kLanes = 16;
  using F = __m512;

  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

  static F load(const float* p, Full) { return _mm512_loadu_ps(p); }
  static F load(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static F load(const Bf16* p, Full) { return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static F load(const Bf16* p, int n) { return widen_bf16(_mm256_maskz_loadu_epi16(first(n), p)); }
  static F load(const Half* p, Full) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F load(const Half* p, int n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p)); }
  static F load(const int32_t* p, Full) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }
  static F load(const int32_t* p, int n) { return _mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(first(n), p)); }
  static F load(const int16_t* p, Full) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
  }
  static F load(const int16_t* p, int n) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(first(n), p)));
  }
  static F load(const uint8_t* p, Full) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static F load(const uint8_t* p, int n) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(n), p)));
  }

  static void store(float* p, F v, Full) { _mm512_storeu_ps(p, v); }
  static void store(float* p, F v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
  static void store(Bf16* p, F v, Full) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16(v)); }
  static void store(Bf16* p, F v, int n) { _mm256_mask_storeu_epi16(p, first(n), narrow_bf16(v)); }
  static void store(Half* p, F v, Full) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_half(v)); }
  static void store(Half* p, F v, int n) { _mm256_mask_storeu_epi16(p, first(n), narrow_half(v)); }
  // Rounds to nearest even; v in 0..255.
  static void store(uint8_t* p, F v, Full) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
  }
  static void store(uint8_t* p, F v, int n) {
    _mm_mask_storeu_epi8(p, first(n), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
  }
  // Rounds to nearest even; what int32 doesn't hold gives -2^31.
  static void store(int32_t* p, F v, Full) { _mm512_storeu_si512(p, _mm512_cvtps_epi32(v)); }

  static F all(float v) { return _mm512_set1_ps(v); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F abs(F a) { return _mm512_abs_ps(a); }
  static F positive_part(F a) { return _mm512_max_ps(a, _mm512_setzero_ps()); }  // NaN gives 0
  static uint64_t less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  // 64 comparisons
  static uint64_t less_word(const int32_t* a, const int32_t* b) {
    const auto less = [&](int i) -> uint64_t {
      return _mm512_cmplt_epi32_mask(_mm512_loadu_si512(a + i), _mm512_loadu_si512(b + i));
    };
    return less(0) | less(16) << 16 | less(32) << 32 | less(48) << 48;
  }
  static uint64_t less_equal(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
  // Lane i is b where bit i of mask is set, else a.
  static F select(uint64_t mask, F a, F b) { return _mm512_mask_blend_ps(static_cast<__mmask16>(mask), a, b); }

  // 16 elements, minus where the bit of mask is set.
  static void expand(uint64_t mask, uint32_t plus, uint32_t minus, uint32_t* p) {
    const __m512i v = _mm512_mask_set1_epi32(_mm512_set1_epi32(plus), static_cast<__mmask16>(mask), minus);
    _mm512_storeu_si512(p, v);
  }
  static void expand(uint64_t mask, uint16_t plus, uint16_t minus, uint16_t* p) {
    const __m256i v = _mm256_mask_set1_epi16(_mm256_set1_epi16(plus), static_cast<__mmask16>(mask), minus);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  }
  static void expand(uint64_t mask, uint8_t plus, uint8_t minus, uint8_t* p) {
    const __m128i v = _mm_mask_set1_epi8(_mm_set1_epi8(plus), static_cast<__mmask16>(mask), minus);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v);
  }

 private:
  static F widen_bf16(__m256i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)); }

  static __m256i narrow_bf16(F v) {
    const __m512i u = _mm512_castps_si512(v), one = _mm512_set1_epi32(1);
    const __mmask16 odd = _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x10000));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    __m512i rounded = _mm512_add_epi32(u, _mm512_set1_epi32(0x7fff));
    rounded = _mm512_mask_add_epi32(rounded, odd, rounded, one);
    rounded = _mm512_mask_set1_epi32(rounded, nan, 0x7fc00000);
    const __m512i upper = _mm512_set_epi64(0, 0, 0, 0, 0x001f001d001b0019, 0x0017001500130011, 0x000f000d000b0009,
                                           0x0007000500030001);  // of every 32 bits
    return _mm512_castsi512_si256(_mm512_permutexvar_epi16(upper, rounded));
  }

  static __m256i narrow_half(F v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
};

}  // namespace bnn::cpu::avx512

BNN_TARGET_END
