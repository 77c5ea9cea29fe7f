#pragma once

#include "cuda/emulator/collectives.h"

namespace emu {

struct Fragments {
  uint32_t a[4], b[2];
};

// d[16][8] += a[16][K] b[K][8] for the places of values in lanes that the mma instructions share: lane 4 g + t has
// row g (a[0], a[2], d[0], d[1]) and row g + 8 (the others), word t (a[0], a[1], b[0]) and word t + 4, and
// columns 2 t, 2 t + 1 of d. dot(a, b) is one word's share.
template <class Dot>
void mma(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Collective kind, Dot dot,
         std::source_location at) {
  const Exchange<Fragments> lanes(~0u, kind, {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, at);
  if (lanes.mask() != ~0u) fail("mma in a warp of fewer than 32 threads");
  const int g = self->lane / 4, t = self->lane % 4;
  for (int word = 0; word < 4; ++word) {
    const Fragments row = lanes[4 * g + word];
    const Fragments column[2] = {lanes[4 * (2 * t) + word], lanes[4 * (2 * t + 1) + word]};
    for (int i = 0; i < 4; ++i) {
      const uint32_t (&b_words)[2] = column[i % 2].b;
      d[i] += dot(row.a[i / 2], b_words[0]) + dot(row.a[2 + i / 2], b_words[1]);
    }
  }
}

inline void require(int capability_needed, const char* what) {
  if (capability() < capability_needed) {
    fail(std::string(what) + " needs compute capability " + std::to_string(capability_needed));
  }
}

template <bool kXor>
void mma_b1(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], std::source_location at) {
  if constexpr (kXor) {
    mma(d, a, b, Collective::kMmaB1Xor, [](uint32_t x, uint32_t y) { return std::popcount(x ^ y); }, at);
  } else {
    require(80, "mma.m16n8k256 b1");
    mma(d, a, b, Collective::kMmaB1And, [](uint32_t x, uint32_t y) { return std::popcount(x & y); }, at);
  }
}

inline void mma_s8(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], std::source_location at) {
  require(80, "mma.m16n8k32 s8");
  constexpr auto dot = [](uint32_t x, uint32_t y) {
    int sum = 0;
    for (int byte = 0; byte < 32; byte += 8) sum += static_cast<int8_t>(x >> byte) * static_cast<int8_t>(y >> byte);
    return sum;
  };
  mma(d, a, b, Collective::kMmaS8, dot, at);
}

// ldmatrix: lane l gives the address of row l % 8 of matrix l / 8, and gets word l % 4 of row l / 4 of each.
inline void load_matrices(uint32_t (&r)[4], const void* row, std::source_location at) {
  const char* rows[4];
  {
    const Exchange<const void*> lanes(~0u, Collective::kLoadMatrices, row, at);
    if (lanes.mask() != ~0u) fail("ldmatrix in a warp of fewer than 32 threads");
    if (reinterpret_cast<uintptr_t>(row) % 16) fail("ldmatrix of a row that isn't aligned to 16 bytes");
    for (int i = 0; i < 4; ++i) rows[i] = static_cast<const char*>(lanes[8 * i + self->lane / 4]);
  }
  for (int i = 0; i < 4; ++i) std::memcpy(&r[i], rows[i] + 4 * (self->lane % 4), 4);
}

}  // namespace emu
