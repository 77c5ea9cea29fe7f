#pragma once

#include <immintrin.h>

#include <bit>
#include <cstring>

#include "bnn/half.h"
#include "cpu/target.h"

BNN_AVX2_BEGIN

namespace bnn::cpu::avx2 {

// The float vocabulary of cpu/generic: 8 lanes, full or the first n. Comparisons with NaN are false.
struct Full {};

struct Vec {
  static constexpr int kLanes = 8;
  using F = __m256;

  static F load(const float* p, Full) { return _mm256_loadu_ps(p); }
  static F load(const Bf16* p, Full) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(p)), 16));
  }
  static F load(const Half* p, Full) { return _mm256_cvtph_ps(load_128(p)); }
  static F load(const int32_t* p, Full) {
    return _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F load(const int16_t* p, Full) { return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(load_128(p))); }
  static F load(const uint8_t* p, Full) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  template <class T>
  static F load(const T* p, int n) {
    T lanes[kLanes] = {};
    std::memcpy(lanes, p, static_cast<size_t>(n) * sizeof(T));
    return load(lanes, Full{});
  }

  static void store(float* p, F v, Full) { _mm256_storeu_ps(p, v); }
  static void store(Bf16* p, F v, Full) { store_128(p, narrow_bf16(v)); }
  static void store(Half* p, F v, Full) {
    store_128(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  // Rounds to nearest even; v in 0..255.
  static void store(uint8_t* p, F v, Full) {
    const __m256i lanes = _mm256_cvtps_epi32(v);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
  }
  template <class T>
  static void store(T* p, F v, int n) {
    T lanes[kLanes];
    store(lanes, v, Full{});
    std::memcpy(p, lanes, static_cast<size_t>(n) * sizeof(T));
  }
  // Rounds to nearest even; what int32 doesn't hold gives -2^31.
  static void store(int32_t* p, F v, Full) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_cvtps_epi32(v));
  }

  static F all(float v) { return _mm256_set1_ps(v); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static F positive_part(F a) { return _mm256_max_ps(a, _mm256_setzero_ps()); }  // NaN gives 0
  static uint64_t less(F a, F b) { return mask(_mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
  // 64 comparisons
  static uint64_t less_word(const int32_t* a, const int32_t* b) {
    uint64_t word = 0;
    for (int i = 0; i < 64; i += 8) {
      word |= mask(_mm256_castsi256_ps(_mm256_cmpgt_epi32(load_256(b + i), load_256(a + i)))) << i;
    }
    return word;
  }
  static uint64_t less_equal(F a, F b) { return mask(_mm256_cmp_ps(a, b, _CMP_LE_OQ)); }
  // Lane i is b where bit i of mask is set, else a.
  static F select(uint64_t mask, F a, F b) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(mask)), bit);
    return _mm256_blendv_ps(a, b, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bit)));
  }

  // 16 elements, minus where the bit of mask is set.
  static void expand(uint64_t mask, uint32_t plus, uint32_t minus, uint32_t* p) {
    const F a = all(std::bit_cast<float>(plus)), b = all(std::bit_cast<float>(minus));
    for (int i = 0; i < 16; i += 8) _mm256_storeu_ps(reinterpret_cast<float*>(p + i), select(mask >> i, a, b));
  }
  static void expand(uint64_t mask, uint16_t plus, uint16_t minus, uint16_t* p) {
    const __m256i bit = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi16(static_cast<int16_t>(mask)), bit);
    const __m256i v = _mm256_blendv_epi8(_mm256_set1_epi16(static_cast<int16_t>(plus)),
                                         _mm256_set1_epi16(static_cast<int16_t>(minus)), _mm256_cmpeq_epi16(set, bit));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  }
  static void expand(uint64_t mask, uint8_t plus, uint8_t minus, uint8_t* p) {
    const __m128i bit = _mm_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
    const __m128i spread = _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    const __m128i bytes = _mm_shuffle_epi8(_mm_set1_epi16(static_cast<int16_t>(mask)), spread);
    const __m128i set = _mm_cmpeq_epi8(_mm_and_si128(bytes, bit), bit);
    store_128(p, _mm_blendv_epi8(_mm_set1_epi8(static_cast<char>(plus)), _mm_set1_epi8(static_cast<char>(minus)), set));
  }

 private:
  static __m256i load_256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  static void store_128(void* p, __m128i v) { _mm_storeu_si128(static_cast<__m128i*>(p), v); }
  static uint64_t mask(F v) { return static_cast<unsigned>(_mm256_movemask_ps(v)); }

  static __m128i narrow_bf16(F v) {
    const __m256i u = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i lanes = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
  }
};

}  // namespace bnn::cpu::avx2

BNN_TARGET_END
