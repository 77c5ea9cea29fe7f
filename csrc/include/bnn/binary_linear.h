#pragma once

#include <cstdint>

#include "bnn/bits.h"

namespace bnn {

// Few rows against many filters: streams the weights as they are, one bit a weight. More rows go through binary_conv2d
// with 1x1 filters, where panels pay.
struct BinaryLinear {
  const uint64_t* x = nullptr;       // [M, L]
  const uint64_t* weight = nullptr;  // [K, L]
  int64_t M = 0, K = 0, C = 0;
  int32_t* dot = nullptr;  // [M, K]
};

inline constexpr int64_t kFewRows = 4;

namespace cpu {

// Filters [begin, end) of every row
void binary_linear(const BinaryLinear& p, int64_t begin, int64_t end);

}  // namespace cpu
}  // namespace bnn
