#include <immintrin.h>

#include <algorithm>

#include "cpu/target.h"
#include "cpu/ukernels.h"

BNN_AMX_BEGIN

namespace bnn::cpu::amx {
namespace {

// What the intrinsics of tiles don't tell the compiler: they read and write memory.
inline void memory_barrier() { asm volatile("" ::: "memory"); }

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

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

inline __m512i plus_or_minus(__mmask64 minus) {
  return _mm512_mask_blend_epi8(minus, _mm512_set1_epi8(1), _mm512_set1_epi8(-1));
}

// 32 channels of 16 filters, a filter in a lane: 8 rows of a tile. Four bits of two filters fill 8 bytes of a row.
inline void expand_half(__m512i bits, uint32_t valid, int8_t* out) {
  const __m512i first = _mm512_set1_epi64(0x2322212003020100), step = _mm512_set1_epi8(4);
  __m512i which = first;
  if (valid == ~uint32_t{0}) {
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r, which = _mm512_add_epi8(which, step)) {
      _mm512_storeu_si512(out + 64 * r, plus_or_minus(_mm512_bitshuffle_epi64_mask(bits, which)));
    }
    return;
  }
  for (int r = 0; r < 8; ++r, which = _mm512_add_epi8(which, step)) {
    const __mmask64 inside = (valid >> (4 * r) & 15) * uint64_t{0x1111111111111111};
    const __m512i v = plus_or_minus(_mm512_bitshuffle_epi64_mask(bits, which));
    _mm512_storeu_si512(out + 64 * r, _mm512_maskz_mov_epi8(inside, v));
  }
}

// Expands the words of filters a tile at a time.
class Expander {
 public:
  explicit Expander(const FilterWords& f) : f_(f), left_(f.panels * f.words), tile_(f.tiles) {}

  bool done() const { return left_ == 0; }

  void step() {
    if (word_ % 8 == 0) transpose_words();
    const uint64_t valid = f_.valid == nullptr ? ~uint64_t{0} : f_.valid[word_];
    const __m512i* half = halves_ + word_ % 8 * 2;
    expand_half(half[0], static_cast<uint32_t>(valid), tile_);
    expand_half(half[1], static_cast<uint32_t>(valid >> 32), tile_ + kTileBytes / 2);
    tile_ += kTileBytes;
    --left_;
    if (++word_ == f_.words) word_ = 0, rows_ += kPanel;
  }

 private:
  // 8 words of 16 filters -> 16 halves of words, a filter in a lane
  void transpose_words() {
    const __mmask8 some = static_cast<__mmask8>(low_bits(std::min<int64_t>(8, f_.words - word_)));
    __m512i v[16];
#pragma GCC unroll 16
    for (int k = 0; k < 16; ++k) v[k] = _mm512_maskz_loadu_epi64(some, f_.rows[rows_ + k] + word_);
    transpose(v);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) halves_[i] = v[i];
  }

  const FilterWords& f_;
  int64_t left_, word_ = 0, rows_ = 0;
  int8_t* tile_;
  __m512i halves_[16];
};

// M x N tiles of sums, in registers 0..3; pixels in 4 and 5, filters in 6 and 7. Loads stand together and products
// stand together: on a core whose other thread keeps the unit busy, every change between them costs.
template <int M, int N>
void block(const TileProducts& p, int64_t tile, int64_t panel, Expander& next) {
  const int8_t* a0 = p.bytes + p.starts[tile];
  const int8_t* a1 = p.bytes + p.starts[tile + M - 1];
  const int8_t* b0 = p.panels + panel * p.steps * kTileBytes;
  const int8_t* b1 = b0 + (N - 1) * p.steps * kTileBytes;
  _tile_zero(0);
  if constexpr (N == 2) _tile_zero(1);
  if constexpr (M == 2) _tile_zero(2);
  if constexpr (M == 2 && N == 2) _tile_zero(3);
  for (int64_t s = 0; s < p.steps; ++s, b0 += kTileBytes, b1 += kTileBytes) {
    const int64_t offset = p.offsets[s];
    _tile_loadd(4, a0 + offset, p.pitch);
    if constexpr (M == 2) _tile_loadd(5, a1 + offset, p.pitch);
    _tile_loadd(6, b0, 64);
    if constexpr (N == 2) _tile_loadd(7, b1, 64);
    _tile_dpbssd(0, 4, 6);
    if constexpr (N == 2) _tile_dpbssd(1, 4, 7);
    if constexpr (M == 2) _tile_dpbssd(2, 5, 6);
    if constexpr (M == 2 && N == 2) _tile_dpbssd(3, 5, 7);
    if (!next.done()) next.step();
  }
  int32_t* dot = p.dot + tile * p.rows * p.ld + panel * kPanel;
  const int64_t stride = p.ld * static_cast<int64_t>(sizeof(int32_t));
  _tile_stored(0, dot, stride);
  if constexpr (N == 2) _tile_stored(1, dot + kPanel, stride);
  if constexpr (M == 2) _tile_stored(2, dot + p.rows * p.ld, stride);
  if constexpr (M == 2 && N == 2) _tile_stored(3, dot + p.rows * p.ld + kPanel, stride);
}

template <int N>
void column(const TileProducts& p, int64_t panel, Expander& next) {
  int64_t tile = 0;
  for (; tile + 2 <= p.tiles; tile += 2) block<2, N>(p, tile, panel, next);
  if (tile < p.tiles) block<1, N>(p, tile, panel, next);
}

}  // namespace

void tile_rows(int rows) {
  if (rows == 0) return _tile_release();
  TileConfig c;
  for (int i = 0; i < 8; ++i) {
    c.row_bytes[i] = 64;
    c.rows[i] = static_cast<uint8_t>(i < 6 ? rows : kPanel);
  }
  asm volatile("" : : "r"(&c) : "memory");
  _tile_loadconfig(&c);
}

void expand_pixels(const uint64_t* words, int64_t step, int64_t pixels, int64_t channels, int8_t* bytes) {
  const int64_t full = channels / kWordBits;
  const __mmask64 rest = low_bits(channels % kWordBits);
  for (int64_t i = 0; i < pixels; ++i, words += step, bytes += channels) {
    for (int64_t j = 0; j < full; ++j) _mm512_storeu_si512(bytes + 64 * j, plus_or_minus(words[j]));
    if (rest != 0) _mm512_mask_storeu_epi8(bytes + 64 * full, rest, plus_or_minus(words[full]));
  }
}

void expand_filters(const FilterWords& f) {
  for (Expander e(f); !e.done();) e.step();
}

void tile_products(const TileProducts& p) {
  const FilterWords none{};
  Expander next(p.next == nullptr ? none : *p.next);
  memory_barrier();
  int64_t panel = 0;
  for (; panel + 2 <= p.count; panel += 2) column<2>(p, panel, next);
  if (panel < p.count) column<1>(p, panel, next);
  while (!next.done()) next.step();
  memory_barrier();
}

}  // namespace bnn::cpu::amx

BNN_TARGET_END
