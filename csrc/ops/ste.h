#pragma once

#include <optional>
#include <string>

#include "bnn/sign_ste.h"
#include "ops/tensor.h"

// What the fused training ops of convolution and matrix product share.

namespace bnn::ops {

struct Residue {
  Tensor words;    // [N, H, W, L] or [M, L]
  Tensor residue;  // words (clip) or uint8 [.., C] (polynomial)
};

Residue make_residue(const char* op, const Tensor& x, const std::optional<Tensor>& shift, Surrogate surrogate);

struct BinarizedWeight {
  Tensor words;  // [K, R, S, Lg] or [K, L], bit = w < 0
  Tensor mask;   // the same shape, bit = |w| <= 1
  Tensor alpha;  // float32 [K] = mean |w| of a filter, or [0]
};

// weight [K, C / G, R, S] or [K, C]
BinarizedWeight binarize_weight(const char* op, const Tensor& weight, const std::string& scale);

}  // namespace bnn::ops
