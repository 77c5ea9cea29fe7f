#pragma once

#include <cstdint>

#include "bnn/cuda.h"
#include "bnn/span.h"

namespace bnn {

// Stand-in for the derivative of sign at v = x + shift. A NaN has derivative 0.
enum class Surrogate : uint8_t {
  clip,        // 1[|v| <= 1]
  polynomial,  // max(0, 2 - 2 |v|)   (Bi-Real Net, arXiv:1808.00278, eq. 6-7)
};

// Rows of C channels, channels innermost. Which members are read depends on the entry point.
struct SignSte {
  ConstSpan x;                   // [rows, C]
  const float* shift = nullptr;  // [C] or null
  int64_t channels = 0;
  Surrogate surrogate = Surrogate::polynomial;
  ConstSpan grad;             // [rows, C]
  Span out;                   // [rows, C]: +-1, or the gradient of x
  uint64_t* words = nullptr;  // [rows, L]
  void* residue = nullptr;  // clip: [rows, L] words, bit = |v| <= 1; polynomial: [rows, C] uint8 = 255 max(0, 1 - |v|)
};

// mean[i] = mean of |w| over row i, summed in float64.
struct MeanAbs {
  ConstSpan w;            // [rows, length]
  int64_t length = 0;     // at least 1
  float* mean = nullptr;  // [rows]
};

namespace cpu {

// out = sign(x + shift)
void sign_ste(const SignSte& p, int64_t row_begin, int64_t row_end);

// out = grad * derivative(x + shift)
void sign_ste_backward(const SignSte& p, int64_t row_begin, int64_t row_end);

// words and residue from one read of x
void ste_residue(const SignSte& p, int64_t row_begin, int64_t row_end);

// out = grad * derivative, the derivative taken from the residue
void ste_residue_backward(const SignSte& p, int64_t row_begin, int64_t row_end);

void mean_abs(const MeanAbs& p, int64_t row_begin, int64_t row_end);

}  // namespace cpu

namespace cuda {

Status sign_ste(const SignSte& p, int64_t rows, const Stream& stream);
Status sign_ste_backward(const SignSte& p, int64_t rows, const Stream& stream);
Status ste_residue(const SignSte& p, int64_t rows, const Stream& stream);
Status ste_residue_backward(const SignSte& p, int64_t rows, const Stream& stream);
Status mean_abs(const MeanAbs& p, int64_t rows, const Stream& stream);

}  // namespace cuda
}  // namespace bnn
