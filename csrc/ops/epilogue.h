#pragma once

#include <optional>
#include <vector>

#include "bnn/epilogue.h"
#include "ops/tensor.h"

namespace bnn::ops {

struct Factors {
  const Tensor& scale;                      // float32 [K]
  const Tensor& bias;                       // float32 [K]
  const std::optional<Tensor>& rprelu;      // float32 [3, K]
  const std::optional<Tensor>& next_shift;  // float32 [K]
};

// Points the epilogue to factors of K channels on the device of x. `held` keeps them.
void set_factors(const char* op, const Factors& factors, const Tensor& x, int64_t K, Epilogue& epilogue,
                 std::vector<Tensor>& held);

// Outputs of a fused op and the tensors that its epilogue points into.
struct FusedOutputs {
  Epilogue epilogue;
  Tensor stream;  // [N, K, OH, OW] channels-last or [M, K]; [0] when not asked for
  Tensor words;   // [N, OH, OW, L] or [M, L]; [0] when not asked for
  std::vector<Tensor> held;
};

// Whether the stream may take the residual's memory
enum class Residual { stays, ends };

// The outputs that are asked for, and the residual; the factors are the caller's.
FusedOutputs make_outputs(const char* op, const Tensor& x, const std::vector<int64_t>& shape,
                          const std::optional<Tensor>& residual, std::optional<ScalarType> stream_dtype, bool words,
                          Residual after);

// shape [N, K, OH, OW] or [M, K], on the device of x
FusedOutputs make_fused(const char* op, const Tensor& x, const std::vector<int64_t>& shape, const Factors& factors,
                        const std::optional<Tensor>& residual, std::optional<ScalarType> stream_dtype);

}  // namespace bnn::ops
