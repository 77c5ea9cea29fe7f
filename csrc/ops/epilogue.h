#pragma once

#include <optional>
#include <vector>

#include "bnn/epilogue.h"
#include "ops/tensor.h"

namespace bnn::ops {

// Arguments that the fused ops share.
struct FusedArguments {
  const Tensor& scale;                      // float32 [K]
  const Tensor& bias;                       // float32 [K]
  const std::optional<Tensor>& residual;    // output shape, float32, bfloat16 or float16
  const std::optional<Tensor>& rprelu;      // float32 [3, K]
  const std::optional<Tensor>& next_shift;  // float32 [K]
  std::optional<ScalarType> stream_dtype;
};

// Outputs of a fused op and the tensors that its epilogue points into.
struct FusedOutputs {
  Epilogue epilogue;
  Tensor stream;  // [N, K, OH, OW] channels-last or [M, K]; [0] when not asked for
  Tensor words;   // [N, OH, OW, L] or [M, L]; [0] when not asked for
  std::vector<Tensor> held;
};

// The outputs that are asked for, and the residual; the rest of the epilogue is the caller's.
FusedOutputs make_outputs(const char* op, const Tensor& x, const std::vector<int64_t>& shape,
                          const std::optional<Tensor>& residual, std::optional<ScalarType> stream_dtype, bool words);

// shape [N, K, OH, OW] or [M, K], on the device of x
FusedOutputs make_fused(const char* op, const Tensor& x, const std::vector<int64_t>& shape, const FusedArguments& a);

}  // namespace bnn::ops
