#pragma once

#include <cstdint>

#include "bnn/cuda.h"
#include "bnn/epilogue.h"
#include "bnn/span.h"

namespace bnn {

// A branch with gates and the shortcut beside it, all in float32 and in this order, each rounded separately:
//   t = (gate[n, c] * scale[c]) * x;  with `multiply` t *= residual;  t = (t + bias[c]) + residual
struct GatedAdd {
  ConstSpan x;         // [N, pixels, channels]
  ConstSpan gate;      // [N, channels]
  int64_t pixels = 0;  // of an image
  bool multiply = false;
  Epilogue epilogue;  // fused, with a residual, no RPReLU
};

namespace cpu {

// Rows [begin, end) of N * pixels. factors: scratch [channels]
void gated_add(const GatedAdd& p, int64_t begin, int64_t end, float* factors);

}  // namespace cpu

namespace cuda {

Status gated_add(const GatedAdd& p, int64_t rows, const Stream& stream);

}  // namespace cuda
}  // namespace bnn
