// How fast the units of this core multiply +-1 or bytes when nothing stands in their way: multiply-adds a second, 0
// where the core lacks the unit. Loaded by bench/_peaks.py.

#include <cstdint>
#include <ctime>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

constexpr int kSteps = 512;  // of the inner loop
constexpr int kLoops = 8;    // between two looks at the clock, which may take half a microsecond

alignas(64) uint8_t g_bytes[16 * 1024];  // half of L1

// Linux grants the state of the matrix unit to a process that asks.
bool has_matrix_unit() {
  constexpr int kRequest = 0x1023, kTileData = 18;  // arch_prctl
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  return (d >> 24 & 1) != 0 && (d >> 25 & 1) != 0 && syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

#define BNN_AMX __attribute__((target("amx-tile,amx-int8")))
#define BNN_AVX512 __attribute__((target("avx512f,avx512vpopcntdq")))
#define BNN_AVX2 __attribute__((target("avx2")))

BNN_AMX void begin_tiles() {
  const TileConfig config;
  asm volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}

BNN_AMX void end_tiles() { _tile_release(); }

BNN_AMX void multiply_tiles() {
  _tile_dpbssd(0, 4, 6);
  _tile_dpbssd(1, 4, 7);
  _tile_dpbssd(2, 5, 6);
  _tile_dpbssd(3, 5, 7);
}

BNN_AMX void amx_registers() {
  for (int i = 0; i < kSteps; ++i) multiply_tiles();
}

// 2 x 2 tiles of sums, as a convolution has them: four loads for four products
BNN_AMX void amx_l1() {
  for (int i = 0; i < kSteps; ++i) {
    const uint8_t* p = g_bytes + i % 4 * 4096;
    _tile_loadd(4, p, 64);
    _tile_loadd(5, p + 1024, 64);
    _tile_loadd(6, p + 2048, 64);
    _tile_loadd(7, p + 3072, 64);
    multiply_tiles();
  }
}

// 8 words x 16 words of 64 bits: exclusive or, population count, addition
BNN_AVX512 void xnor() {
  const auto* words = reinterpret_cast<const long long*>(g_bytes);
  __m512i sums[16];
#pragma GCC unroll 16
  for (auto& sum : sums) sum = _mm512_setzero_si512();
  for (int i = 0; i < kSteps; ++i) {
    const long long* p = words + i % 32 * 64;
    const __m512i w0 = _mm512_load_si512(p), w1 = _mm512_load_si512(p + 8);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const __m512i v = _mm512_set1_epi64(p[16 + j]);
      sums[2 * j] = _mm512_add_epi64(sums[2 * j], _mm512_popcnt_epi64(_mm512_xor_si512(v, w0)));
      sums[2 * j + 1] = _mm512_add_epi64(sums[2 * j + 1], _mm512_popcnt_epi64(_mm512_xor_si512(v, w1)));
    }
  }
#pragma GCC unroll 16
  for (auto& sum : sums) asm volatile("" : : "v"(sum));
}

// Set bits of every byte, by nibbles
BNN_AVX2 inline __m256i popcount_bytes(__m256i v) {
  const __m256i counts = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                          0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(0x0f);
  const __m256i low = _mm256_shuffle_epi8(counts, _mm256_and_si256(v, nibble));
  return _mm256_add_epi8(low, _mm256_shuffle_epi8(counts, _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble)));
}

// 2 words x 8 words, byte counters: the inner loop of csrc/cpu/avx2/bgemm.cpp without its ends
BNN_AVX2 void avx2() {
  const auto* words = reinterpret_cast<const long long*>(g_bytes);
  __m256i sums[2][2];
#pragma GCC unroll 2
  for (auto& row : sums) row[0] = row[1] = _mm256_setzero_si256();
  for (int i = 0; i < kSteps; ++i) {
    const long long* p = words + i % 32 * 64;
    const auto* w = reinterpret_cast<const __m256i*>(p);
    const __m256i w0 = _mm256_load_si256(w), w1 = _mm256_load_si256(w + 1);
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m256i v = _mm256_set1_epi64x(p[16 + j]);
      sums[j][0] = _mm256_add_epi8(sums[j][0], popcount_bytes(_mm256_xor_si256(v, w0)));
      sums[j][1] = _mm256_add_epi8(sums[j][1], popcount_bytes(_mm256_xor_si256(v, w1)));
    }
  }
#pragma GCC unroll 2
  for (auto& row : sums) asm volatile("" : : "x"(row[0]), "x"(row[1]));
}

// Processor time of this thread, free of its neighbours' time slices
double now() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Multiply-adds a second over at least `seconds`; `macs` of one step.
double rate(void (*loop)(), double macs, double seconds) {
  loop();
  const double start = now();
  double passed = 0, loops = 0;
  while (passed < seconds) {
    for (int i = 0; i < kLoops; ++i) loop();
    loops += kLoops;
    passed = now() - start;
  }
  return loops * kSteps * macs / passed;
}

double tile_rate(void (*loop)(), double seconds) {
  static const bool granted = has_matrix_unit();
  if (!granted) return 0;
  begin_tiles();
  const double found = rate(loop, 4.0 * 16 * 16 * 64, seconds);
  end_tiles();
  return found;
}

}  // namespace

extern "C" {
double peak_amx_registers(double seconds) { return tile_rate(amx_registers, seconds); }
double peak_amx_l1(double seconds) { return tile_rate(amx_l1, seconds); }
double peak_xnor(double seconds) {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512vpopcntdq") ? rate(xnor, 8 * 16 * 64, seconds) : 0;
}
double peak_avx2(double seconds) {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") ? rate(avx2, 2 * 8 * 64, seconds) : 0;
}
}
#else
extern "C" {
double peak_amx_registers(double) { return 0; }
double peak_amx_l1(double) { return 0; }
double peak_xnor(double) { return 0; }
double peak_avx2(double) { return 0; }
}
#endif
