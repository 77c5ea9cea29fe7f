#include "bnn/sign_ste.h"

#include <tuple>

#include "bnn/bits.h"
#include "ops/check.h"
#include "ops/run.h"
#include "ops/ste.h"
#include "ops/tensor.h"

namespace bnn::ops {
namespace {

// Runs a kernel whose output has the strides of x; rows are made where x has none.
Tensor run_like(const char* op, const Tensor& x, SignSte p, RowKernel<SignSte> kernel) {
  const Tensor result = torch::stable::empty_like(x);
  const bool direct = is_channels_last(x) && is_channels_last(result);
  Tensor rows = direct ? result : empty_rows(shape_of(x), x.scalar_type(), x);
  p.out = mutable_span_of(rows);
  run_rows(op, x, kernel, p, row_count(x), p.channels);
  if (direct) return result;
  Tensor target = result;
  return torch::stable::copy_(target, rows);
}

}  // namespace

// +-1 in the dtype of x
Tensor sign_ste(const Tensor& x, const std::optional<Tensor>& shift, std::string surrogate) {
  check_rows("sign_ste", "x", x);
  surrogate_of("sign_ste", surrogate);
  const ChannelVector shift_vector("sign_ste", "shift", shift, x.size(1), x);
  const Tensor rows = channels_innermost(x);
  SignSte p;
  p.x = span_of(rows);
  p.shift = shift_vector.data();
  p.channels = x.size(1);
  return run_like("sign_ste", x, p, BNN_KERNEL(sign_ste));
}

// grad, x -> gradient of x, dtype and strides of x
Tensor sign_ste_backward(const Tensor& grad, const Tensor& x, const std::optional<Tensor>& shift,
                         std::string surrogate) {
  const char* op = "sign_ste_backward";
  check_rows(op, "x", x);
  check_shape(op, "grad", grad, x.sizes());
  check_float(op, "grad", grad, x);
  const ChannelVector shift_vector(op, "shift", shift, x.size(1), x);
  const Tensor rows = channels_innermost(x);
  const Tensor grad_rows =
      channels_innermost(grad.scalar_type() == x.scalar_type() ? grad : torch::stable::to(grad, x.scalar_type()));
  SignSte p;
  p.x = span_of(rows);
  p.shift = shift_vector.data();
  p.channels = x.size(1);
  p.surrogate = surrogate_of(op, surrogate);
  p.grad = span_of(grad_rows);
  return run_like(op, x, p, BNN_KERNEL(sign_ste_backward));
}

Residue make_residue(const char* op, const Tensor& x, const std::optional<Tensor>& shift, Surrogate surrogate) {
  const int64_t channels = x.size(1), L = words_for(channels);
  const ChannelVector shift_vector(op, "shift", shift, channels, x);
  const bool clip = surrogate == Surrogate::clip;
  const Tensor rows = channels_innermost(x);
  const Tensor words = empty(innermost_shape(x, L), ScalarType::Long, x);
  const Tensor residue = empty(innermost_shape(x, clip ? L : channels), clip ? ScalarType::Long : ScalarType::Byte, x);
  SignSte p;
  p.x = span_of(rows);
  p.shift = shift_vector.data();
  p.channels = channels;
  p.surrogate = surrogate;
  p.words = static_cast<uint64_t*>(words.mutable_data_ptr());
  p.residue = residue.mutable_data_ptr();
  run_rows(op, x, BNN_KERNEL(ste_residue), p, row_count(x), channels);
  return {words, residue};
}

// x -> words [N, H, W, L], residue [N, H, W, L] int64 (clip) or [N, H, W, C] uint8 (polynomial); likewise for [M, C]
std::tuple<Tensor, Tensor> ste_residue(const Tensor& x, const std::optional<Tensor>& shift, std::string surrogate) {
  check_rows("ste_residue", "x", x);
  Residue r = make_residue("ste_residue", x, shift, surrogate_of("ste_residue", surrogate));
  return {r.words, r.residue};
}

// grad [N, C, H, W] or [M, C] -> the same shape with channels-last strides
Tensor ste_residue_backward(const Tensor& grad, const Tensor& residue, std::string surrogate) {
  const char* op = "ste_residue_backward";
  check_rows(op, "grad", grad);
  SignSte p;
  p.surrogate = surrogate_of(op, surrogate);
  p.channels = grad.size(1);
  const bool clip = p.surrogate == Surrogate::clip;
  check_device(op, "residue", residue, grad);
  check_shape(op, "residue", residue, innermost_shape(grad, clip ? words_for(p.channels) : p.channels));
  BNN_CHECK(residue.scalar_type() == (clip ? ScalarType::Long : ScalarType::Byte), op, "residue",
            clip ? "int64 for 'clip'" : "uint8 for 'polynomial'", dtype_text(residue));
  const Tensor rows = channels_innermost(grad);
  const Tensor packed = dense(residue);
  const Tensor result = empty_rows(shape_of(grad), grad.scalar_type(), grad);
  p.grad = span_of(rows);
  p.residue = const_cast<void*>(packed.const_data_ptr());
  p.out = mutable_span_of(result);
  run_rows(op, grad, BNN_KERNEL(ste_residue_backward), p, row_count(grad), p.channels);
  return result;
}

BinarizedWeight binarize_weight(const char* op, const Tensor& weight, const std::string& scale) {
  BNN_CHECK(scale == "none" || scale == "mean", op, "scale", "one of ['none', 'mean']", "'" + scale + "'");
  const Tensor rows = channels_innermost(weight);
  const Residue r = make_residue(op, rows, std::nullopt, Surrogate::clip);
  const int64_t K = weight.size(0);
  const Tensor alpha = empty({scale == "mean" ? K : 0}, ScalarType::Float, weight);
  if (scale == "mean" && K > 0) {
    const MeanAbs p{span_of(rows), weight.numel() / K, static_cast<float*>(alpha.mutable_data_ptr())};
    run_rows(op, weight, BNN_KERNEL(mean_abs), p, K, p.length);
  }
  return {r.words, r.residue, alpha};
}

}  // namespace bnn::ops

BNN_REGISTER(m) {
  m.impl("sign_ste", TORCH_BOX(&bnn::ops::sign_ste));
  m.impl("sign_ste_backward", TORCH_BOX(&bnn::ops::sign_ste_backward));
  m.impl("ste_residue", TORCH_BOX(&bnn::ops::ste_residue));
  m.impl("ste_residue_backward", TORCH_BOX(&bnn::ops::ste_residue_backward));
}
