#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bnn/binary_conv2d.h"
#include "ops/tensor.h"

namespace bnn::ops {

struct ConvArguments {
  int64_t in_channels;
  const std::vector<int64_t>& stride;  // vertical, horizontal
  const std::vector<int64_t>& padding;
  const std::vector<int64_t>& dilation;
  int64_t groups;
  int64_t pad_value;
};

// Sizes of a convolution of x, an `image` of (N, H, W), with `filters` of (K, R, S), every argument checked.
ConvGeometry conv_geometry(const char* op, const Tensor& x, const std::vector<int64_t>& image,
                           const std::vector<int64_t>& filters, const ConvArguments& a);

// Contiguous words x [N, H, W, L], weight [K, R, S, Lg]; output rows leave through the epilogue.
void run_conv(const char* op, const ConvGeometry& geometry, const Tensor& x, const Tensor& weight,
              const Epilogue& epilogue);

// The same on the CPU, with filters that were packed before or null
void run_conv_on_cpu(const BinaryConv2d& problem);

// What run_conv runs on: an instruction set or the name of a CUDA kernel. words: the epilogue writes words.
std::string conv_route(const char* op, const ConvGeometry& geometry, const Tensor& x, bool words);

}  // namespace bnn::ops
