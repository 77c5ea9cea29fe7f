#pragma once

#include <cstdint>

#include "bnn/bits.h"
#include "bnn/cuda.h"
#include "bnn/span.h"

namespace bnn {

// words = bits of x + shift < 0; the sum in float32.
struct Bitpack {
  ConstSpan x;                   // [rows, C]
  const float* shift = nullptr;  // [C] or null
  int64_t channels = 0;
  uint64_t* words = nullptr;  // [rows, L]
};

// y = 1 - 2 bit
struct Bitunpack {
  const uint64_t* words = nullptr;  // [rows, L]
  int64_t channels = 0;
  Span y;  // [rows, C]
};

namespace cpu {

void bitpack(const Bitpack& p, int64_t row_begin, int64_t row_end);
void bitunpack(const Bitunpack& p, int64_t row_begin, int64_t row_end);

}  // namespace cpu

namespace cuda {

Status bitpack(const Bitpack& p, int64_t rows, const Stream& stream);
Status bitunpack(const Bitunpack& p, int64_t rows, const Stream& stream);

}  // namespace cuda
}  // namespace bnn
