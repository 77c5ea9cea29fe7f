#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "bnn/sign_ste.h"
#include "bnn/span.h"
#include "ops/check.h"

// Tensors seen as rows of channels.

namespace bnn::ops {

using torch::headeronly::MemoryFormat;

inline DType dtype_of(ScalarType t) {
  switch (t) {
    case ScalarType::BFloat16:
      return DType::bf16;
    case ScalarType::Half:
      return DType::f16;
    case ScalarType::Char:
      return DType::i8;
    default:
      return DType::f32;
  }
}

// Strides of size-1 dimensions do not matter.
inline bool is_channels_last(const Tensor& t) {
  if (t.dim() != 4) return t.is_contiguous();
  int64_t expected = 1;
  for (const int64_t d : {1, 3, 2, 0}) {
    if (t.size(d) != 1 && t.stride(d) != expected) return t.numel() == 0;
    expected *= t.size(d);
  }
  return true;
}

// The same values with channels innermost; a copy only where they are not.
inline Tensor channels_innermost(const Tensor& t) {
  if (is_channels_last(t)) return t;
  return torch::stable::contiguous(t, t.dim() == 4 ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

// Call on a tensor of the right memory order.
inline ConstSpan span_of(const Tensor& t) { return {t.const_data_ptr(), dtype_of(t.scalar_type())}; }
inline Span mutable_span_of(const Tensor& t) { return {t.mutable_data_ptr(), dtype_of(t.scalar_type())}; }

inline int64_t row_count(const Tensor& t) {  // of [N, C, H, W] or [M, C]
  return t.dim() == 4 ? t.size(0) * t.size(2) * t.size(3) : t.size(0);
}

inline Tensor empty(const std::vector<int64_t>& shape, ScalarType dtype) { return torch::stable::empty(shape, dtype); }

// [N, C, H, W] (or [M, C]) with channels innermost
inline Tensor empty_rows(const std::vector<int64_t>& shape, ScalarType dtype) {
  const auto format = shape.size() == 4 ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  return torch::stable::empty(shape, dtype, std::nullopt, std::nullopt, std::nullopt, format);
}

// [N, C, H, W] -> [N, H, W, last], [M, C] -> [M, last]
inline std::vector<int64_t> innermost_shape(const Tensor& t, int64_t last) {
  if (t.dim() == 4) return {t.size(0), t.size(2), t.size(3), last};
  return {t.size(0), last};
}

inline std::vector<int64_t> shape_of(const Tensor& t) {
  const auto sizes = t.sizes();
  return {sizes.begin(), sizes.end()};
}

// Contiguous float32 [channels], or nothing.
class ChannelVector {
 public:
  ChannelVector(const char* op, const char* argument, const std::optional<Tensor>& t, int64_t channels) {
    if (!t) return;
    check_shape(op, argument, *t, {channels});
    check_float(op, argument, *t);
    held_ = torch::stable::contiguous(torch::stable::to(*t, ScalarType::Float));
  }

  const float* data() const { return held_ ? static_cast<const float*>(held_->const_data_ptr()) : nullptr; }

 private:
  std::optional<Tensor> held_;
};

inline Surrogate surrogate_of(const char* op, const std::string& name) {
  BNN_CHECK(name == "clip" || name == "polynomial", op, "surrogate", "one of ['clip', 'polynomial']",
            "'" + name + "'");
  return name == "clip" ? Surrogate::clip : Surrogate::polynomial;
}

}  // namespace bnn::ops
