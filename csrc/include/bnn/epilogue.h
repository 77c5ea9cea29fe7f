#pragma once

#include <cstdint>

#include "bnn/span.h"

namespace bnn {

// How rows of K int32 dot products leave a convolution or a matrix product. Rows are output pixels, K innermost.
struct Epilogue {
  enum class Kind : uint8_t { integer, scaled, fused };
  Kind kind = Kind::integer;
  int64_t channels = 0;  // K

  // integer: sums = dot
  int32_t* sums = nullptr;  // [rows, K]

  // scaled: y = alpha[k] * dot, without alpha y = dot
  const float* alpha = nullptr;  // [K] or null
  Span y;                        // [rows, K]

  // fused, all in float32 and in this order, multiply and add rounded separately:
  //   y = scale[k] * dot + bias[k];  y += residual;  t = y + r[0];  t = t > 0 ? t : r[1] * t;  y = t + r[2]
  //   stream = y;  words = bits of y + next_shift[k] < 0
  const float* scale = nullptr;       // [K]
  const float* bias = nullptr;        // [K]
  ConstSpan residual;                 // [rows, K] or empty
  const float* rprelu = nullptr;      // [3, K] or null
  const float* next_shift = nullptr;  // [K] or null
  Span stream;                        // [rows, K] or empty
  uint64_t* words = nullptr;          // [rows, ceil(K / 64)] or null
};

namespace cpu {

// Writes rows [row, row + rows) of the output from dot [rows, ld].
void store_rows(const Epilogue& e, const int32_t* dot, int64_t ld, int64_t row, int64_t rows);

}  // namespace cpu
}  // namespace bnn
