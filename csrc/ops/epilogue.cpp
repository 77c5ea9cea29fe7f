#include "ops/epilogue.h"

#include <utility>

#include "bnn/bits.h"
#include "ops/check.h"

namespace bnn::ops {
namespace {

const float* float_data(const char* op, const char* argument, const Tensor& t, const Tensor& x,
                        const std::vector<int64_t>& shape, std::vector<Tensor>& held) {
  check_shape(op, argument, t, shape);
  BNN_CHECK(t.scalar_type() == ScalarType::Float, op, argument, "float32", dtype_text(t));
  check_device(op, argument, t, x);
  held.push_back(dense(t));
  return static_cast<const float*>(held.back().const_data_ptr());
}

}  // namespace

FusedOutputs make_outputs(const char* op, const Tensor& x, const std::vector<int64_t>& shape,
                          const std::optional<Tensor>& residual, std::optional<ScalarType> stream_dtype, bool words,
                          Residual after) {
  if (stream_dtype) {
    BNN_CHECK(is_float_type(*stream_dtype), op, "stream_dtype", "None, float32, bfloat16 or float16",
              dtype_text(*stream_dtype));
  }
  std::vector<Tensor> held;
  if (residual) {
    check_shape(op, "residual", *residual, shape);
    check_float(op, "residual", *residual, x);
    held.push_back(channels_innermost(*residual));
  }
  const auto make_stream = [&] {
    if (!stream_dtype) return empty({0}, ScalarType::Float, x);
    const bool fits = residual && residual->scalar_type() == *stream_dtype && has_rows_strides(held[0]);
    return after == Residual::ends && fits ? held[0] : empty_rows(shape, *stream_dtype, x);
  };
  std::vector<int64_t> words_shape = shape;
  words_shape.erase(words_shape.begin() + 1);
  words_shape.push_back(words_for(shape[1]));
  FusedOutputs out{
      {}, make_stream(), empty(words ? words_shape : std::vector<int64_t>{0}, ScalarType::Long, x), std::move(held)};
  Epilogue& e = out.epilogue;
  e.kind = Epilogue::Kind::fused;
  e.channels = shape[1];
  if (stream_dtype) e.stream = mutable_span_of(out.stream);
  if (words) e.words = static_cast<uint64_t*>(out.words.mutable_data_ptr());
  if (residual) e.residual = span_of(out.held[0]);
  return out;
}

void set_factors(const char* op, const Factors& f, const Tensor& x, int64_t K, Epilogue& e, std::vector<Tensor>& held) {
  e.scale = float_data(op, "scale", f.scale, x, {K}, held);
  e.bias = float_data(op, "bias", f.bias, x, {K}, held);
  if (f.rprelu) e.rprelu = float_data(op, "rprelu", *f.rprelu, x, {3, K}, held);
  if (f.next_shift) e.next_shift = float_data(op, "next_shift", *f.next_shift, x, {K}, held);
}

FusedOutputs make_fused(const char* op, const Tensor& x, const std::vector<int64_t>& shape, const Factors& factors,
                        const std::optional<Tensor>& residual, std::optional<ScalarType> stream_dtype) {
  FusedOutputs out =
      make_outputs(op, x, shape, residual, stream_dtype, factors.next_shift || !stream_dtype, Residual::stays);
  set_factors(op, factors, x, shape[1], out.epilogue, out.held);
  return out;
}

}  // namespace bnn::ops
