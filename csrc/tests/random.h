#pragma once

// Random values for the tests of microkernels.

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "bnn/bits.h"

namespace bnn::cpu {

inline std::mt19937_64 g_random(20240607);

inline int64_t up_to(int64_t n) { return static_cast<int64_t>(g_random() % static_cast<uint64_t>(n + 1)); }

inline int64_t some_channels() {
  constexpr int64_t kEdges[] = {1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200};
  return up_to(1) == 0 ? kEdges[up_to(16)] : 1 + up_to(300);
}

inline float some_float() {
  constexpr float kSpecial[] = {0.0f,     -0.0f, 1.0f,   -1.0f,     1e-40f,     -1e-40f,
                                65504.0f, 1e30f, -1e30f, HUGE_VALF, -HUGE_VALF, NAN};
  if (up_to(5) == 0) return kSpecial[up_to(11)];
  return std::normal_distribution<float>(0.0f, 1.0f)(g_random);
}

// Random, or all bits alike: what drives counters to their limit.
inline std::vector<uint64_t> words(int64_t n) {
  std::vector<uint64_t> out(static_cast<size_t>(n));
  const int64_t kind = up_to(5);
  for (uint64_t& w : out) w = kind > 1 ? g_random() : kind == 1 ? ~uint64_t{0} : 0;
  return out;
}

inline std::vector<int32_t> integers(int64_t n) {
  std::vector<int32_t> out(static_cast<size_t>(n));
  for (int32_t& v : out) v = static_cast<int32_t>(up_to(4000)) - 2000;
  return out;
}

inline std::vector<float> floats(int64_t n) {
  std::vector<float> out(static_cast<size_t>(n));
  for (float& v : out) v = some_float();
  return out;
}

}  // namespace bnn::cpu
