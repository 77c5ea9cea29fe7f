#pragma once

#include <optional>
#include <tuple>
#include <vector>

#include "ops/epilogue.h"
#include "ops/tensor.h"

// Ops that another op calls.

namespace bnn::ops {

Tensor bitpack(const Tensor& x, const std::optional<Tensor>& shift);

// binary_conv2d_prepared
std::tuple<Tensor, Tensor> prepared_conv2d(const Tensor& x, const Tensor& prepared, const std::vector<int64_t>& shape,
                                           const std::optional<Tensor>& residual,
                                           std::optional<ScalarType> stream_dtype, bool words, Residual after);

std::tuple<Tensor, Tensor> int8_conv2d(const Tensor& x, const Tensor& panels, std::vector<int64_t> kernel_size,
                                       std::vector<int64_t> stride, std::vector<int64_t> padding,
                                       std::vector<int64_t> pool, const Tensor& scale, const Tensor& bias,
                                       const std::optional<Tensor>& next_shift, std::optional<ScalarType> stream_dtype);

std::tuple<Tensor, Tensor> gated_add(const Tensor& x, const Tensor& residual, const Tensor& gate,
                                     const Factors& factors, bool multiply, std::optional<ScalarType> stream_dtype,
                                     Residual after);

std::vector<Tensor> multires_pool2d(const Tensor& x, std::vector<int64_t> sizes);

}  // namespace bnn::ops
