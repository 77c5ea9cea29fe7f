#include "bnn/binary_linear.h"

#include <tuple>

#include "ops/check.h"
#include "ops/conv.h"
#include "ops/epilogue.h"
#include "ops/run.h"
#include "ops/ste.h"
#include "ops/tensor.h"

namespace bnn::ops {
namespace {

// A matrix product is a convolution of one row of M pixels with 1x1 filters.
ConvGeometry linear_geometry(const char* op, const Tensor& x, int64_t filters, int64_t features) {
  return conv_geometry(op, x, {1, 1, x.size(0)}, {filters, 1, 1}, {features, {1, 1}, {0, 0}, {1, 1}, 1, 0});
}

void check_linear(const char* op, const Tensor& x, const Tensor& weight, int64_t in_features) {
  check_words(op, "x", x, in_features, 2, x);
  check_words(op, "weight", weight, in_features, 2, x);
}

// Contiguous words x [M, L], weight [K, L]
void run_linear(const char* op, const Tensor& x, const Tensor& weight, int64_t features, const Epilogue& epilogue) {
  const ConvGeometry g =
      x.size(0) == 0 || weight.size(0) == 0 ? ConvGeometry{} : linear_geometry(op, x, weight.size(0), features);
  if (g.W > kFewRows) return run_conv(op, g, x, weight, epilogue);
  if (g.K == 0) return;
  BinaryLinear p{static_cast<const uint64_t*>(x.const_data_ptr()),
                 static_cast<const uint64_t*>(weight.const_data_ptr()),
                 g.W,
                 g.K,
                 features,
                 nullptr};
  run(
      op, x,
      [&] {
        p.dot = reinterpret_cast<int32_t*>(scratch<Slot::call>(g.W * g.K / 2 + 1));
        parallel(g.K, g.W * g.L(), [&](int64_t begin, int64_t end) { cpu::binary_linear(p, begin, end); });
        cpu::store_rows(epilogue, {.wide = p.dot, .ld = g.K}, {0, g.W, 0, g.K});
      },
      [&](const cuda::Stream& stream) { return cuda::binary_linear(p, epilogue, stream); });
}

}  // namespace

// -> int32 [M, K]
Tensor binary_linear(const Tensor& x, const Tensor& weight, int64_t in_features) {
  check_linear("binary_linear", x, weight, in_features);
  const Tensor y = empty({x.size(0), weight.size(0)}, ScalarType::Int, x);
  Epilogue e;
  e.channels = weight.size(0);
  e.sums = static_cast<int32_t*>(y.mutable_data_ptr());
  run_linear("binary_linear", dense(x), dense(weight), in_features, e);
  return y;
}

// -> stream [M, K] or [0], words [M, ceil(K / 64)] or [0]
std::tuple<Tensor, Tensor> binary_linear_fused(const Tensor& x, const Tensor& weight, int64_t in_features,
                                               const Tensor& scale, const Tensor& bias,
                                               const std::optional<Tensor>& residual,
                                               const std::optional<Tensor>& rprelu,
                                               const std::optional<Tensor>& next_shift,
                                               std::optional<ScalarType> stream_dtype) {
  const char* op = "binary_linear_fused";
  check_linear(op, x, weight, in_features);
  const FusedOutputs out =
      make_fused(op, x, {x.size(0), weight.size(0)}, {scale, bias, rprelu, next_shift}, residual, stream_dtype);
  run_linear(op, dense(x), dense(weight), in_features, out.epilogue);
  return {out.stream, out.words};
}

// x [M, C], latent weight [K, C] -> y [M, K], words, residue, weight words, weight mask, alpha
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> binary_linear_ste_forward(const Tensor& x,
                                                                                     const Tensor& weight,
                                                                                     const std::optional<Tensor>& shift,
                                                                                     std::string surrogate,
                                                                                     std::string scale) {
  const char* op = "binary_linear_ste";
  BNN_CHECK(x.dim() == 2, op, "x", "[M, C]", shape_text(x));
  check_float(op, "x", x, x);
  BNN_CHECK(weight.dim() == 2 && weight.size(1) == x.size(1), op, "weight",
            text("[K, ", x.size(1), "], as many columns as x"), shape_text(weight));
  check_float(op, "weight", weight, x);
  const Residue r = make_residue(op, x, shift, surrogate_of(op, surrogate));
  const BinarizedWeight w = binarize_weight(op, weight, scale);
  const Tensor y = empty({x.size(0), weight.size(0)}, x.scalar_type(), x);
  Epilogue e;
  e.kind = Epilogue::Kind::scaled;
  e.channels = weight.size(0);
  e.alpha = scale == "mean" ? static_cast<const float*>(w.alpha.const_data_ptr()) : nullptr;
  e.y = mutable_span_of(y);
  run_linear(op, r.words, w.words, x.size(1), e);
  return {y, r.words, r.residue, w.words, w.mask, w.alpha};
}

// Name of what the two ops above run on
std::string binary_linear_route(const Tensor& x, const Tensor& weight, int64_t in_features, bool words) {
  const char* op = "binary_linear_route";
  check_linear(op, x, weight, in_features);
  if (on_cuda(x) && x.size(0) <= kFewRows) return "few rows";
  return conv_route(op, linear_geometry(op, x, weight.size(0), in_features), x, words);
}

}  // namespace bnn::ops

BNN_REGISTER(m) {
  m.impl("binary_linear", TORCH_BOX(&bnn::ops::binary_linear));
  m.impl("binary_linear_fused", TORCH_BOX(&bnn::ops::binary_linear_fused));
  m.impl("binary_linear_route", TORCH_BOX(&bnn::ops::binary_linear_route));
  m.impl("binary_linear_ste_forward", TORCH_BOX(&bnn::ops::binary_linear_ste_forward));
}
