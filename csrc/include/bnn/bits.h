#pragma once

#include <bit>
#include <cstdint>

// The bit layout, said once.
//
// A binary tensor holds its channels in 64-bit words, channels innermost: [N, H, W, L] or [M, L], L = ceil(C / 64).
// Channel c is bit c % 64 of word c / 64. Bit 1 means -1, bit 0 means +1; sign(0) = sign(-0.0) = +1, NaN = +1.
// Tail bits (channels C .. 64 L - 1) are 0. Weights are [K, R, S, ceil((C / G) / 64)] or [K, L].
// With a, b the bits of n values each: sum of products = n - 2 popcount(a ^ b).

namespace bnn {

static_assert(std::endian::native == std::endian::little, "byte-wise access to words assumes little-endian");

inline constexpr int kWordBits = 64;

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int64_t words_for(int64_t channels) { return ceil_div(channels, kWordBits); }

// The lowest n bits set, n in 0..64.
constexpr uint64_t low_bits(int64_t n) { return n >= kWordBits ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }

// Without -mpopcnt the compiler's builtin is a library call per word.
constexpr int popcount(uint64_t v) {
  v -= (v >> 1) & 0x5555555555555555;
  v = (v & 0x3333333333333333) + ((v >> 2) & 0x3333333333333333);
  v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0f;
  return static_cast<int>((v * 0x0101010101010101) >> 56);
}

}  // namespace bnn
