#include <immintrin.h>

#include <algorithm>

#include "cpu/amx/tiles.h"
#include "cpu/target.h"
#include "cpu/ukernels.h"

BNN_AMX_BEGIN

namespace bnn::cpu::amx {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

constexpr int64_t kTileSums = 16 * kTileRows;

// Bytes of two channels by their four bits, two of the first filter and two of the second; 32 entries, as a permutation
// looks at five bits.
struct alignas(64) ByteTable {
  uint16_t of[32];

  constexpr ByteTable() : of{} {
    for (int i = 0; i < 32; ++i) {
      const int low = (i & 1) + kSecond * (i >> 2 & 1), high = (i >> 1 & 1) + kSecond * (i >> 3 & 1);
      of[i] = static_cast<uint16_t>(low | high << 8);
    }
  }
};
constexpr ByteTable kBytes;

// Expands tiles of filters from their codes, four rows at a time: a row is four bits of both filters of each column, 16
// bits at a time.
class Expander {
 public:
  Expander(const uint64_t* codes, uint8_t* to, int64_t tiles) : codes_(codes), to_(to), left_(4 * tiles) {}

  int64_t left() const { return left_; }

  void some(int64_t count) {
    const __m512i table = _mm512_load_si512(kBytes.of);
    count = std::min(count, left_);
    left_ -= count;
    for (; count > 0; --count, codes_ += 8) {
      const __m512i rows = _mm512_loadu_si512(codes_);
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r, to_ += 64) {
        _mm512_store_si512(to_, _mm512_permutexvar_epi16(_mm512_srli_epi16(rows, 4 * r), table));
      }
    }
  }

 private:
  const uint64_t* codes_;
  uint8_t* to_;
  int64_t left_;
};

constexpr int64_t kFewTiles = 4;  // of pixels: what they leave unhidden of a chunk's expansion grows with its length

// Steps [begin, end) of a panel, one or two groups, and where their filters lie: tile after tile, step after step.
struct Chunk {
  int64_t panel, begin, middle, end;
  int groups;
  int64_t tiles;  // of filters, a step
  const uint8_t* filters;

  Chunk(const TileProducts& p, int64_t i, int64_t first, const uint8_t* place)
      : panel(i), begin(first), middle(first), end(first), groups(0), tiles(0), filters(place) {
    if (panel * kWordBits >= p.filters) return;
    tiles = tiles_of(p.filters - panel * kWordBits);
    const uint8_t* begins = p.panel(panel).groups;
    const int most = p.tiles <= kFewTiles ? 1 : 2;
    for (; groups < most && end < p.steps; ++groups) {
      end = group_end(begins, end, p.steps);
      if (groups == 0) middle = end;
    }
  }

  Chunk next(const TileProducts& p, const uint8_t* place) const {
    return end < p.steps ? Chunk(p, panel, end, place) : Chunk(p, panel + 1, 0, place);
  }

  Expander expander(const TileProducts& p, uint8_t* place) const {
    const uint64_t* codes = groups == 0 ? nullptr : p.panel(panel).codes + begin * tiles * kCodeWords;
    return {codes, place, (end - begin) * tiles};
  }
};

// 16 sums below 2^16 of a row and of the next one, in turns of four
inline __m512i two_rows(const int32_t* sums) {
  return _mm512_packus_epi32(_mm512_load_si512(sums), _mm512_load_si512(sums + 16));
}

// Sums of up to four tiles on their way from the unit: one or two groups of a chunk of steps, and what each tile's
// earlier chunks summed to. A group's sum is s + kSecond s'. A block is settled when the next one's first group is
// through: the unit has long finished it then.
class Sums {
 public:
  explicit Sums(const TileProducts& p) : p_(p) {}
  Sums(const Sums&) = delete;
  Sums& operator=(const Sums&) = delete;

  // Where the tiles of a block and its next group go: `pixels` of them from `tile` on, each with `filters`.
  int32_t* next(const Chunk& chunk, int group, int64_t tile, int pixels, int filters) {
    if (group == 0) {
      settle();
      first_ = chunk.begin == 0, last_ = chunk.end == p_.steps, two_ = chunk.groups == 2;
      index_ = chunk.panel, panel_ = p_.panel(index_);
      tile_ = tile, pixels_ = pixels, filters_ = filters;
    }
    return group_[group][0];
  }

  void settle() {
    for (int t = 0; t < pixels_ * filters_; ++t) {
      if (p_.rows == kTileRows) {
        two_ ? settle_rows<kTileRows, true>(t) : settle_rows<kTileRows, false>(t);
      } else {
        two_ ? settle_rows<0, true>(t) : settle_rows<0, false>(t);
      }
    }
    if (last_ && pixels_ > 0 && !*panel_.limited) p_.finished(p_.context, index_, tile_, pixels_);
    pixels_ = 0;
  }

 private:
  // kRows: rows of a tile, or 0 if known at run time
  template <int kRows, bool kTwo>
  void settle_rows(int t) {
    if (!last_) {
      first_ ? settle_tile<kRows, kTwo, true, Leave::sums>(t) : settle_tile<kRows, kTwo, false, Leave::sums>(t);
    } else if (!*panel_.limited) {
      first_ ? settle_tile<kRows, kTwo, true, Leave::dot>(t) : settle_tile<kRows, kTwo, false, Leave::dot>(t);
    } else {
      first_ ? settle_tile<kRows, kTwo, true, Leave::words>(t) : settle_tile<kRows, kTwo, false, Leave::words>(t);
    }
  }

  enum class Leave { sums, dot, words };

  // Two rows at a time; `sums` of both filters together, `seconds` s' alone.
  template <int kRows, bool kTwo, bool kFirst, Leave kLeave>
  void settle_tile(int t) {
    const __m512i inverse = _mm512_set1_epi16(kInverse), second = _mm512_set1_epi16(kSecond);
    const int rows = kRows > 0 ? kRows : p_.rows;
    const int64_t pixels = t / filters_, tile = tile_ + pixels, column = t % filters_ * kTileFilters;
    const int32_t *group = group_[0][t], *other = group_[1][t];
    __m512i* earlier = earlier_[(tile * filters_ + t % filters_) % (2 * kJobTiles)];
    const int16_t* base = panel_.base + column;
    const int64_t at = p_.starts[tile];
    const int32_t *row_base = p_.row_base + at, *row_add = p_.row_add + at;
    [[maybe_unused]] int16_t* dot = p_.dot + pixels * rows * kWordBits + column;
    [[maybe_unused]] const int32_t* row_word = p_.row_word + at;
    [[maybe_unused]] uint32_t* words = p_.words + index_ * 2 + t % filters_;
    [[maybe_unused]] const auto falling = static_cast<uint32_t>(*panel_.falling >> column);
    const auto leave = [&](int r, __m512i sums) {
      sums = _mm512_add_epi16(_mm512_slli_epi16(sums, 2), _mm512_set1_epi32(row_add[r]));
      const __m512i of_class = _mm512_loadu_si512(base + row_base[r]);
      if constexpr (kLeave == Leave::dot) {
        _mm512_storeu_si512(dot + r * kWordBits, _mm512_add_epi16(sums, of_class));
      } else if (row_word[r] >= 0) {
        words[row_word[r]] = _mm512_cmplt_epi16_mask(sums, of_class) ^ falling;
      }
    };
#pragma GCC unroll 8
    for (int r = 0; r < rows; r += 2) {
      __m512i sums = two_rows(group + 16 * r);
      __m512i seconds = _mm512_mulhi_epu16(sums, inverse);
      if constexpr (kTwo) {
        const __m512i more = two_rows(other + 16 * r);
        sums = _mm512_add_epi16(sums, more);
        seconds = _mm512_add_epi16(seconds, _mm512_mulhi_epu16(more, inverse));
      }
      if constexpr (!kFirst) {
        sums = _mm512_add_epi16(sums, earlier[r]);
        seconds = _mm512_add_epi16(seconds, earlier[r + 1]);
      }
      if constexpr (kLeave == Leave::sums) {
        earlier[r] = sums;
        earlier[r + 1] = seconds;
      } else {
        const __m512i firsts = _mm512_sub_epi16(sums, _mm512_mullo_epi16(seconds, second));
        leave(r, _mm512_unpacklo_epi64(firsts, seconds));
        if (r + 1 < rows) leave(r + 1, _mm512_unpackhi_epi64(firsts, seconds));
      }
    }
  }

  const TileProducts& p_;
  bool first_ = false, last_ = false, two_ = false;
  TilePanel panel_ = {};
  int64_t index_ = 0, tile_ = 0;
  int pixels_ = 0, filters_ = 1;
  alignas(64) int32_t group_[2][4][kTileSums];
  __m512i earlier_[2 * kJobTiles][kTileRows];
};

// kPixels x kFilters tiles of sums, in registers 0..3; pixels in 4, filters in 6 and 7
template <int kPixels, int kFilters>
void block(const TileProducts& p, const Chunk& chunk, int group, int64_t tile, Sums& sums, Expander& ahead,
           int64_t pace) {
  const auto pixels = [&](int i) { return p.bytes + p.starts[tile + (i < kPixels ? i : 0)] * p.pitch; };
  const uint8_t *a0 = pixels(0), *a1 = pixels(1), *a2 = pixels(2), *a3 = pixels(3);
  const int64_t begin = group == 0 ? chunk.begin : chunk.middle, end = group == 0 ? chunk.middle : chunk.end;
  const uint8_t* filters = chunk.filters + (begin - chunk.begin) * kFilters * kTileBytes;
  constexpr int kTiles = kPixels * kFilters;
  _tile_zero(0);
  if constexpr (kTiles > 1) _tile_zero(1);
  if constexpr (kTiles > 2) _tile_zero(2);
  if constexpr (kTiles > 3) _tile_zero(3);
  for (int64_t s = begin; s < end; ++s, filters += kFilters * kTileBytes) {
    const int64_t offset = p.offsets[s];
    _tile_loadd(6, filters, 64);
    _tile_loadd(4, a0 + offset, p.pitch);
    _tile_dpbuud(0, 4, 6);
    if constexpr (kFilters == 2) {
      _tile_loadd(7, filters + kTileBytes, 64);
      _tile_dpbuud(1, 4, 7);
      if constexpr (kPixels == 2) {
        _tile_loadd(4, a1 + offset, p.pitch);
        _tile_dpbuud(2, 4, 6);
        _tile_dpbuud(3, 4, 7);
      }
    } else {
      if constexpr (kPixels > 1) {
        _tile_loadd(4, a1 + offset, p.pitch);
        _tile_dpbuud(1, 4, 6);
      }
      if constexpr (kPixels > 2) {
        _tile_loadd(4, a2 + offset, p.pitch);
        _tile_dpbuud(2, 4, 6);
      }
      if constexpr (kPixels > 3) {
        _tile_loadd(4, a3 + offset, p.pitch);
        _tile_dpbuud(3, 4, 6);
      }
    }
    ahead.some(pace);
  }
  int32_t* to = sums.next(chunk, group, tile, kPixels, kFilters);
  memory_barrier();
  _tile_stored(0, to, 64);
  if constexpr (kTiles > 1) _tile_stored(1, to + kTileSums, 64);
  if constexpr (kTiles > 2) _tile_stored(2, to + 2 * kTileSums, 64);
  if constexpr (kTiles > 3) _tile_stored(3, to + 3 * kTileSums, 64);
  memory_barrier();
}

// As many tiles of pixels from `tile` on as four of sums allow; how many that were.
template <int kPixels, int kFilters>
int64_t blocks(const TileProducts& p, const Chunk& chunk, int64_t tile, Sums& sums, Expander& ahead, int64_t pace) {
  for (int i = 0; i < chunk.groups; ++i) block<kPixels, kFilters>(p, chunk, i, tile, sums, ahead, pace);
  return kPixels;
}

// All tiles by a chunk, while the next one's filters are expanded
void multiply(const TileProducts& p, const Chunk& chunk, Sums& sums, Expander& ahead) {
  const int64_t together = chunk.tiles == 2 ? 2 : 4;
  const int64_t pace = ceil_div(ahead.left(), ceil_div(p.tiles, together) * (chunk.end - chunk.begin));
  for (int64_t tile = 0; tile < p.tiles;) {
    const int64_t left = p.tiles - tile;
    if (chunk.tiles == 2) {
      tile +=
          left >= 2 ? blocks<2, 2>(p, chunk, tile, sums, ahead, pace) : blocks<1, 2>(p, chunk, tile, sums, ahead, pace);
    } else if (left >= 4) {
      tile += blocks<4, 1>(p, chunk, tile, sums, ahead, pace);
    } else {
      tile +=
          left >= 2 ? blocks<2, 1>(p, chunk, tile, sums, ahead, pace) : blocks<1, 1>(p, chunk, tile, sums, ahead, pace);
    }
  }
  ahead.some(ahead.left());
}

}  // namespace

void tile_rows(int rows) {
  if (rows == 0) return _tile_release();
  TileConfig c;
  for (int i = 0; i < 8; ++i) {
    c.row_bytes[i] = 64;
    c.rows[i] = static_cast<uint8_t>(i < 6 ? rows : 16);
  }
  asm volatile("" : : "r"(&c) : "memory");
  _tile_loadconfig(&c);
}

void tile_products(const TileProducts& p) {
  alignas(64) uint8_t filters[2][2 * kMostSteps * 2 * kTileBytes];
  Sums sums(p);
  Chunk chunk(p, 0, 0, filters[0]);
  Expander first = chunk.expander(p, filters[0]);
  first.some(first.left());
  for (int turn = 1; chunk.groups > 0; turn ^= 1) {
    const Chunk next = chunk.next(p, filters[turn]);
    Expander ahead = next.expander(p, filters[turn]);
    memory_barrier();
    multiply(p, chunk, sums, ahead);
    chunk = next;
  }
  sums.settle();
  memory_barrier();
}

}  // namespace bnn::cpu::amx

BNN_TARGET_END
