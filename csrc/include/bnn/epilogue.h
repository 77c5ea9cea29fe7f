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
  Span stream;                        // [rows, K] or empty; may be the residual: each element is read, then written
  uint64_t* words = nullptr;          // [rows, ceil(K / 64)] or null
};

namespace cpu {

// Dot products [rows, ld] in int32, or in int16 where all fit
struct Dots {
  const int32_t* wide = nullptr;
  const int16_t* narrow = nullptr;
  int64_t ld = 0;

  // f(pointer to the first)
  template <class F>
  void visit(const F& f) const {
    narrow != nullptr ? f(narrow) : f(wide);
  }
};

// Rows [row, row + rows) of the output, channels [channel, channel + channels): whole words but for the last.
struct OutputPart {
  int64_t row, rows, channel, channels;
};

// Writes a part of the output from the dot products of its rows and channels.
void store_rows(const Epilogue& e, const Dots& dots, const OutputPart& part);

}  // namespace cpu
}  // namespace bnn
