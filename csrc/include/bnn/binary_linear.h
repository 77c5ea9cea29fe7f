#pragma once

#include <cstdint>

#include "bnn/bits.h"
#include "bnn/cuda.h"
#include "bnn/epilogue.h"

namespace bnn {

// Few rows against many filters: streams the weights as they are, one bit a weight. More rows go through binary_conv2d
// with 1x1 filters, where panels pay.
struct BinaryLinear {
  const uint64_t* x = nullptr;       // [M, L]
  const uint64_t* weight = nullptr;  // [K, L]
  int64_t M = 0, K = 0, C = 0;
  int32_t* dot = nullptr;  // [M, K], CPU only: on CUDA the epilogue takes the products from registers
};

inline constexpr int64_t kFewRows = 4;

namespace cpu {

// Filters [begin, end) of every row
void binary_linear(const BinaryLinear& p, int64_t begin, int64_t end);

}  // namespace cpu

namespace cuda {

// M at most kFewRows
Status binary_linear(const BinaryLinear& p, const Epilogue& epilogue, const Stream& stream);

}  // namespace cuda
}  // namespace bnn
