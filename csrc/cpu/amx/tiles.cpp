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

// 32 channels of 16 filters, a filter in a lane: 8 rows of a tile, `stride` bytes apart. Four bits of two filters fill
// 8 bytes of a row.
inline void expand_half(__m512i bits, uint32_t valid, int8_t* out, int64_t stride) {
  const __m512i first = _mm512_set1_epi64(0x2322212003020100), step = _mm512_set1_epi8(4);
  __m512i which = first;
  if (valid == ~uint32_t{0}) {
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r, which = _mm512_add_epi8(which, step)) {
      _mm512_storeu_si512(out + stride * r, plus_or_minus(_mm512_bitshuffle_epi64_mask(bits, which)));
    }
    return;
  }
  for (int r = 0; r < 8; ++r, which = _mm512_add_epi8(which, step)) {
    const __mmask64 inside = (valid >> (4 * r) & 15) * uint64_t{0x1111111111111111};
    const __m512i v = plus_or_minus(_mm512_bitshuffle_epi64_mask(bits, which));
    _mm512_storeu_si512(out + stride * r, _mm512_maskz_mov_epi8(inside, v));
  }
}

// Expands the words of a panel of 16 filters a tile at a time.
class Expander {
 public:
  Expander(const FilterWords& f, int64_t panel) : f_(f), first_(panel * kPanel) {}

  void tile(int64_t step, int8_t* to, int64_t stride) {
    if (step % 8 == 0) transpose_words(step);
    const uint64_t valid = f_.valid == nullptr ? ~uint64_t{0} : f_.valid[step];
    const __m512i* half = halves_ + step % 8 * 2;
    expand_half(half[0], static_cast<uint32_t>(valid), to, stride);
    expand_half(half[1], static_cast<uint32_t>(valid >> 32), to + 8 * stride, stride);
  }

 private:
  // 8 words of 16 filters -> 16 halves of words, a filter in a lane
  void transpose_words(int64_t step) {
    const __mmask8 some = static_cast<__mmask8>(low_bits(std::min<int64_t>(8, f_.steps - step)));
    __m512i v[16];
#pragma GCC unroll 16
    for (int k = 0; k < 16; ++k) v[k] = _mm512_maskz_loadu_epi64(some, f_.row(first_ + k) + step);
    transpose(v);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) halves_[i] = v[i];
  }

  const FilterWords& f_;
  int64_t first_;
  __m512i halves_[16];
};

// M tiles of sums, in registers 0..3; pixels in 4, filters in 5. Six names leave the core the more tile registers to
// rename to: where its other thread uses the unit, too, a block of 2 x 2 with all eight names takes twice as long.
// With an expander the panel is filled in front of the products, kAhead steps, while the unit is busy with those
// before.
constexpr int64_t kAhead = 2;

template <int M, bool kExpand>
void block(const TileProducts& p, int64_t tile, int8_t* panel, int32_t* dot, [[maybe_unused]] Expander* filters) {
  const int8_t* a0 = p.bytes + p.starts[tile];
  const int8_t* a1 = p.bytes + p.starts[tile + (M > 1 ? 1 : 0)];
  const int8_t* a2 = p.bytes + p.starts[tile + (M > 2 ? 2 : 0)];
  const int8_t* a3 = p.bytes + p.starts[tile + (M > 3 ? 3 : 0)];
  const int64_t turn = p.weave - 1, stride = 64 * p.weave;
  const auto place = [&](int64_t s) { return panel + (s & p.wrap & ~turn) * kTileBytes + ((s + 1) & turn) * 64; };
  if constexpr (kExpand) {
    for (int64_t s = 0; s < std::min(kAhead, p.steps); ++s) filters->tile(s, place(s), stride);
  }
  _tile_zero(0);
  if constexpr (M > 1) _tile_zero(1);
  if constexpr (M > 2) _tile_zero(2);
  if constexpr (M > 3) _tile_zero(3);
  for (int64_t s = 0; s < p.steps; ++s) {
    if constexpr (kExpand) {
      if (s + kAhead < p.steps) filters->tile(s + kAhead, place(s + kAhead), stride);
      memory_barrier();
    }
    const int64_t offset = p.offsets[s];
    _tile_loadd(5, place(s), stride);
    _tile_loadd(4, a0 + offset, p.pitch);
    _tile_dpbssd(0, 4, 5);
    if constexpr (M > 1) {
      _tile_loadd(4, a1 + offset, p.pitch);
      _tile_dpbssd(1, 4, 5);
    }
    if constexpr (M > 2) {
      _tile_loadd(4, a2 + offset, p.pitch);
      _tile_dpbssd(2, 4, 5);
    }
    if constexpr (M > 3) {
      _tile_loadd(4, a3 + offset, p.pitch);
      _tile_dpbssd(3, 4, 5);
    }
  }
  const int64_t row_bytes = p.ld * static_cast<int64_t>(sizeof(int32_t));
  dot += tile * p.rows * p.ld;
  _tile_stored(0, dot, row_bytes);
  if constexpr (M > 1) _tile_stored(1, dot + p.rows * p.ld, row_bytes);
  if constexpr (M > 2) _tile_stored(2, dot + 2 * p.rows * p.ld, row_bytes);
  if constexpr (M > 3) _tile_stored(3, dot + 3 * p.rows * p.ld, row_bytes);
}

template <bool kExpand>
void some_tiles(const TileProducts& p, int64_t tile, int64_t count, int8_t* panel, int32_t* dot, Expander* filters) {
  switch (count) {
    case 1:
      return block<1, kExpand>(p, tile, panel, dot, filters);
    case 2:
      return block<2, kExpand>(p, tile, panel, dot, filters);
    case 3:
      return block<3, kExpand>(p, tile, panel, dot, filters);
    default:
      return block<4, kExpand>(p, tile, panel, dot, filters);
  }
}

// By three; four rather than three and one
int64_t next_tiles(int64_t left) { return left == 4 ? 4 : std::min<int64_t>(left, 3); }

}  // namespace

void tile_rows(int rows) {
  if (rows == 0) return _tile_release();
  TileConfig c;
  for (int i = 0; i < 8; ++i) {
    c.row_bytes[i] = 64;
    c.rows[i] = static_cast<uint8_t>(i < 5 ? rows : kPanel);
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

void expand_filters(const FilterWords& f, int8_t* tiles) {
  for (int64_t panel = 0; panel < f.panels(); ++panel) {
    Expander filters(f, panel);
    for (int64_t s = 0; s < f.steps; ++s, tiles += kTileBytes) filters.tile(s, tiles, 64);
  }
}

void tile_products(const TileProducts& p) {
  memory_barrier();
  for (int64_t i = 0; i < p.count; ++i) {
    int32_t* dot = p.dot + i * kPanel;
    int8_t* panel = p.filters == nullptr ? p.panels + i * p.steps * kTileBytes : p.panels;
    int64_t tile = 0;
    if (p.filters != nullptr) {
      Expander filters(*p.filters, i);
      tile = next_tiles(p.tiles);
      some_tiles<true>(p, 0, tile, panel, dot, &filters);
    }
    while (tile < p.tiles) {
      const int64_t count = next_tiles(p.tiles - tile);
      some_tiles<false>(p, tile, count, panel, dot, nullptr);
      tile += count;
    }
  }
  memory_barrier();
}

}  // namespace bnn::cpu::amx

BNN_TARGET_END
