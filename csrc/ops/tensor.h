#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <stdexcept>
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

inline Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

// Call on a tensor of the right memory order.
inline ConstSpan span_of(const Tensor& t) { return {t.const_data_ptr(), dtype_of(t.scalar_type())}; }
inline Span mutable_span_of(const Tensor& t) { return {t.mutable_data_ptr(), dtype_of(t.scalar_type())}; }

inline int64_t row_count(const Tensor& t) {  // of [N, C, H, W] or [M, C]
  return t.dim() == 4 ? t.size(0) * t.size(2) * t.size(3) : t.size(0);
}

// On x's device. Straight to the allocator: torch::stable::empty looks its op up by name, which costs microseconds.
inline Tensor empty_strided(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides, ScalarType dtype,
                            const Tensor& x) {
  const auto type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  const int32_t device = x.is_cuda() ? aoti_torch_device_type_cuda() : aoti_torch_device_type_cpu();
  AtenTensorHandle handle = nullptr;
  const auto error = aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), strides.data(), type,
                                              device, std::max(0, x.get_device_index()), &handle);
  if (error != TORCH_SUCCESS) throw std::runtime_error("bnn: no memory for an output of shape " + list_text(shape));
  return Tensor(handle);
}

inline std::vector<int64_t> shape_of(const Tensor& t) {
  const auto sizes = t.sizes();
  return {sizes.begin(), sizes.end()};
}

// Strides when the dimensions in `order` are laid out from innermost to outermost.
inline std::vector<int64_t> strides_in(const std::vector<int64_t>& shape, const std::vector<int64_t>& order) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (const int64_t d : order) {
    strides[d] = stride;
    if (__builtin_mul_overflow(stride, std::max<int64_t>(shape[d], 1), &stride)) {
      throw std::runtime_error("bnn: no memory for an output of shape " + list_text(shape));
    }
  }
  return strides;
}

inline Tensor empty(const std::vector<int64_t>& shape, ScalarType dtype, const Tensor& x) {
  static const std::vector<int64_t> orders[] = {{}, {0}, {1, 0}, {2, 1, 0}, {3, 2, 1, 0}};
  return empty_strided(shape, strides_in(shape, orders[shape.size()]), dtype, x);
}

// [N, C, H, W] (or [M, C]) with channels innermost
inline Tensor empty_rows(const std::vector<int64_t>& shape, ScalarType dtype, const Tensor& x) {
  return shape.size() == 4 ? empty_strided(shape, strides_in(shape, {1, 3, 2, 0}), dtype, x) : empty(shape, dtype, x);
}

// Whether t is laid out as empty_rows would, also where a size is 1
inline bool has_rows_strides(const Tensor& t) {
  const std::vector<int64_t> order = t.dim() == 4 ? std::vector<int64_t>{1, 3, 2, 0} : std::vector<int64_t>{1, 0};
  return std::ranges::equal(t.strides(), strides_in(shape_of(t), order));
}

// [N, C, H, W] -> [N, H, W, last], [M, C] -> [M, last]
inline std::vector<int64_t> innermost_shape(const Tensor& t, int64_t last) {
  if (t.dim() == 4) return {t.size(0), t.size(2), t.size(3), last};
  return {t.size(0), last};
}

// Contiguous float32 [channels] beside x, or nothing.
class ChannelVector {
 public:
  ChannelVector(const char* op, const char* argument, const std::optional<Tensor>& t, int64_t channels,
                const Tensor& x) {
    if (!t) return;
    check_shape(op, argument, *t, {channels});
    check_float(op, argument, *t, x);
    held_ = dense(t->scalar_type() == ScalarType::Float ? *t : torch::stable::to(*t, ScalarType::Float));
  }

  const float* data() const { return held_ ? static_cast<const float*>(held_->const_data_ptr()) : nullptr; }

 private:
  std::optional<Tensor> held_;
};

inline Surrogate surrogate_of(const char* op, const std::string& name) {
  BNN_CHECK(name == "clip" || name == "polynomial", op, "surrogate", "one of ['clip', 'polynomial']", "'" + name + "'");
  return name == "clip" ? Surrogate::clip : Surrogate::polynomial;
}

}  // namespace bnn::ops
