#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

#include "bnn/span.h"
#include "ops/device.h"

// One message format, the same as in bnn/ops: "bnn::binary_conv2d: groups must be a divisor of ..., got 3".

namespace bnn::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  ((out << parts), ...);
  return out.str();
}

[[noreturn]] inline void fail(const char* op, const char* argument, const std::string& expected,
                              const std::string& got) {
  throw std::runtime_error(text("bnn::", op, ": ", argument, " must be ", expected, ", got ", got));
}

// Message parts are evaluated only when the condition fails.
#define BNN_CHECK(condition, op, argument, expected, got) \
  do {                                                    \
    if (!(condition)) [[unlikely]] {                      \
      ::bnn::ops::fail(op, argument, expected, got);      \
    }                                                     \
  } while (false)

template <class Sizes>
std::string list_text(const Sizes& sizes) {
  std::ostringstream out;
  const char* separator = "[";
  for (const int64_t n : sizes) {
    out << separator << n;
    separator = ", ";
  }
  return out.str() + (sizes.size() == 0 ? "[]" : "]");
}

inline std::string shape_text(const Tensor& t) { return list_text(t.sizes()); }

// As Python writes it
inline std::string dtype_text(ScalarType t) {
  switch (t) {
    case ScalarType::Float:
      return "torch.float32";
    case ScalarType::Double:
      return "torch.float64";
    case ScalarType::Half:
      return "torch.float16";
    case ScalarType::BFloat16:
      return "torch.bfloat16";
    case ScalarType::Byte:
      return "torch.uint8";
    case ScalarType::Char:
      return "torch.int8";
    case ScalarType::Short:
      return "torch.int16";
    case ScalarType::Int:
      return "torch.int32";
    case ScalarType::Long:
      return "torch.int64";
    default:
      return torch::headeronly::toString(t);
  }
}

inline std::string dtype_text(const Tensor& t) { return dtype_text(t.scalar_type()); }

inline bool is_float_type(ScalarType t) {
  return t == ScalarType::Float || t == ScalarType::BFloat16 || t == ScalarType::Half;
}

// x: the op's first tensor, whose device decides where the op runs
inline void check_device(const char* op, const char* argument, const Tensor& t, const Tensor& x) {
  BNN_CHECK(same_device(t, x), op, argument, text("on ", device_text(x), ", where x is"), device_text(t));
}

inline void check_float(const char* op, const char* argument, const Tensor& t, const Tensor& x) {
  BNN_CHECK(is_float_type(t.scalar_type()), op, argument, "float32, bfloat16 or float16", dtype_text(t));
  check_device(op, argument, t, x);
}

// CUDA kernels count rows (pixels) in 32 bits.
template <class... Factors>
void check_row_count(const char* op, const char* argument, const Tensor& x, Factors... factors) {
  if (!on_cuda(x)) return;
  int64_t rows = 1;
  const bool overflow = (__builtin_mul_overflow(rows, static_cast<int64_t>(factors), &rows) || ...);
  BNN_CHECK(!overflow && rows <= kMaxCudaRows, op, argument, text("of at most ", kMaxCudaRows, " pixels on CUDA"),
            overflow ? "more" : text(rows));
}

// x [N, C, H, W] or [M, C]
inline void check_rows(const char* op, const char* argument, const Tensor& x) {
  BNN_CHECK(x.dim() == 2 || x.dim() == 4, op, argument, "[N, C, H, W] or [M, C]", shape_text(x));
  check_float(op, argument, x, x);
  check_row_count(op, argument, x, x.size(0), x.dim() == 4 ? x.size(2) : 1, x.dim() == 4 ? x.size(3) : 1);
}

// int64 words of `dims` dimensions (0: 2 or 4), the last ceil(channels / 64)
inline void check_words(const char* op, const char* argument, const Tensor& t, int64_t channels, int64_t dims,
                        const Tensor& x) {
  const bool fits = dims == 0 ? t.dim() == 2 || t.dim() == 4 : t.dim() == dims;
  BNN_CHECK(fits, op, argument, dims == 0 ? "of 2 dimensions or of 4 dimensions" : text("of ", dims, " dimensions"),
            shape_text(t));
  BNN_CHECK(t.scalar_type() == ScalarType::Long, op, argument, "int64 words", dtype_text(t));
  check_device(op, argument, t, x);
  BNN_CHECK(channels > 0, op, "the channel count", "positive", text(channels));
  const int64_t L = channels / 64 + (channels % 64 != 0);
  BNN_CHECK(t.size(t.dim() - 1) == L, op, argument, text("[..., ", L, "] for ", channels, " channels"), shape_text(t));
  check_row_count(op, argument, x, t.size(0), t.dim() == 4 ? t.size(1) : 1, t.dim() == 4 ? t.size(2) : 1);
}

inline void check_shape(const char* op, const char* argument, const Tensor& t,
                        torch::headeronly::IntHeaderOnlyArrayRef shape) {
  bool same = t.dim() == static_cast<int64_t>(shape.size());
  for (int64_t d = 0; same && d < t.dim(); ++d) same = t.size(d) == shape[d];
  BNN_CHECK(same, op, argument, "of shape " + list_text(shape), shape_text(t));
}

}  // namespace bnn::ops
