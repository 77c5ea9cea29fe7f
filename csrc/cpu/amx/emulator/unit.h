#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>

// The matrix unit in plain C++, in the place of its intrinsics, for machines without one and for sanitizers, which see
// no memory that the unit reads or writes. What the processor would refuse aborts with a message, and so do palette 0
// and a start row, which our kernels never use.

namespace bnn::cpu::amx::emulator {

inline constexpr int kTiles = 8, kMostRows = 16, kMostBytes = 64;

// As LDTILECFG reads it
struct Config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(Config) == 64);

inline void require(bool condition, const char* instruction, const char* expected) {
  if (condition) return;
  std::fprintf(stderr, "emulated matrix unit: %s: %s\n", instruction, expected);
  std::abort();
}

class Unit {
 public:
  struct Tile {
    int rows = 0, bytes = 0;  // bytes of a row
    alignas(64) uint8_t of[kMostRows][kMostBytes];

    void clear() { std::memset(of, 0, sizeof of); }
  };

  void configure(const void* config) {
    Config c;
    std::memcpy(&c, config, sizeof c);
    require(c.palette == 1 && c.start_row == 0, "ldtilecfg", "palette 1 from row 0 on");
    for (uint8_t byte : c.reserved) require(byte == 0, "ldtilecfg", "reserved bytes are 0");
    for (int i = 0; i < 16; ++i) {
      const bool none = c.rows[i] == 0 && c.row_bytes[i] == 0;
      const bool fits = c.rows[i] > 0 && c.rows[i] <= kMostRows && c.row_bytes[i] > 0 && c.row_bytes[i] <= kMostBytes;
      require(i < kTiles ? none || fits : none, "ldtilecfg", "8 tiles of at most 16 rows of 64 bytes");
    }
    tiles_.emplace();
    for (int i = 0; i < kTiles; ++i) {
      (*tiles_)[i].rows = c.rows[i], (*tiles_)[i].bytes = c.row_bytes[i];
      (*tiles_)[i].clear();
    }
  }

  void release() { tiles_.reset(); }

  Tile& tile(const char* instruction, int i) {
    require(tiles_ && i >= 0 && i < kTiles && (*tiles_)[i].rows > 0, instruction, "a tile that this thread configured");
    return (*tiles_)[i];
  }

 private:
  struct Tiles {
    Tile of[kTiles];
    Tile& operator[](int i) { return of[i]; }
  };
  std::optional<Tiles> tiles_;
};

inline Unit& unit() {
  thread_local Unit unit;
  return unit;
}

inline void zero(int i) { unit().tile("tilezero", i).clear(); }

inline void load(int i, const void* from, int64_t pitch) {
  Unit::Tile& t = unit().tile("tileloadd", i);
  t.clear();
  for (int r = 0; r < t.rows; ++r) {
    std::memcpy(t.of[r], static_cast<const uint8_t*>(from) + r * pitch, static_cast<size_t>(t.bytes));
  }
}

inline void store(int i, void* to, int64_t pitch) {
  const Unit::Tile& t = unit().tile("tilestored", i);
  for (int r = 0; r < t.rows; ++r) {
    std::memcpy(static_cast<uint8_t*>(to) + r * pitch, t.of[r], static_cast<size_t>(t.bytes));
  }
}

// sums[m][n] += a[m][4 k + j] b[k][4 n + j] over k and j < 4, modulo 2^32; bytes of a without sign, of b as Byte says
template <class Byte>
void multiply(const char* name, int sums, int a, int b) {
  Unit::Tile &c = unit().tile(name, sums), &x = unit().tile(name, a), &y = unit().tile(name, b);
  require(sums != a && sums != b && a != b, name, "three tiles");
  require(c.rows == x.rows && c.bytes == y.bytes && x.bytes == 4 * y.rows && x.bytes % 4 == 0 && c.bytes % 4 == 0, name,
          "tiles that fit each other");
  constexpr int kColumns = kMostBytes / 4;
  uint32_t factors[kMostBytes][kColumns] = {};  // b by row and j, wide: what compilers make vectors of
  for (int k = 0; k < y.rows; ++k) {
    for (int i = 0; i < c.bytes; ++i)
      factors[4 * k + i % 4][i / 4] = static_cast<uint32_t>(static_cast<Byte>(y.of[k][i]));
  }
  for (int m = 0; m < c.rows; ++m) {
    uint32_t row[kColumns];
    std::memcpy(row, c.of[m], sizeof row);
    for (int k = 0; k < x.bytes; ++k) {
      for (int n = 0; n < kColumns; ++n) row[n] += x.of[m][k] * factors[k][n];
    }
    std::memcpy(c.of[m], row, sizeof row);
  }
}

}  // namespace bnn::cpu::amx::emulator

#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbuud
#undef _tile_dpbusd
#undef _tile_loadconfig
#undef _tile_release
#define _tile_zero(tile) ::bnn::cpu::amx::emulator::zero(tile)
#define _tile_loadd(tile, from, pitch) ::bnn::cpu::amx::emulator::load(tile, from, pitch)
#define _tile_stored(tile, to, pitch) ::bnn::cpu::amx::emulator::store(tile, to, pitch)
#define _tile_dpbuud(sums, a, b) ::bnn::cpu::amx::emulator::multiply<uint8_t>("tdpbuud", sums, a, b)
#define _tile_dpbusd(sums, a, b) ::bnn::cpu::amx::emulator::multiply<int8_t>("tdpbusd", sums, a, b)
#define _tile_loadconfig(config) ::bnn::cpu::amx::emulator::unit().configure(config)
#define _tile_release() ::bnn::cpu::amx::emulator::unit().release()
