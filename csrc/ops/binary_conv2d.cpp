#include "bnn/binary_conv2d.h"

#include <tuple>

#include "ops/check.h"
#include "ops/conv.h"
#include "ops/epilogue.h"
#include "ops/ste.h"
#include "ops/tensor.h"

namespace bnn::ops {
namespace {

using Int2 = std::vector<int64_t>;

// Words x [N, H, W, L] and weight [K, R, S, Lg]
ConvGeometry words_geometry(const char* op, const Tensor& x, const Tensor& weight, const ConvArguments& a) {
  check_words(op, "x", x, a.in_channels, 4, x);
  BNN_CHECK(weight.dim() == 4, op, "weight", "words [K, R, S, L]", shape_text(weight));
  const ConvGeometry g =
      conv_geometry(op, x, {x.size(0), x.size(1), x.size(2)}, {weight.size(0), weight.size(1), weight.size(2)}, a);
  check_words(op, "weight", weight, g.Cg(), 4, x);
  return g;
}

std::vector<int64_t> output_shape(const ConvGeometry& g) { return {g.N, g.K, g.OH, g.OW}; }

}  // namespace

// -> int32 [N, K, OH, OW], channels-last strides
Tensor binary_conv2d(const Tensor& x, const Tensor& weight, int64_t in_channels, Int2 stride, Int2 padding,
                     Int2 dilation, int64_t groups, int64_t pad_value) {
  const ConvGeometry g =
      words_geometry("binary_conv2d", x, weight, {in_channels, stride, padding, dilation, groups, pad_value});
  const Tensor y = empty_rows(output_shape(g), ScalarType::Int, x);
  Epilogue e;
  e.channels = g.K;
  e.sums = static_cast<int32_t*>(y.mutable_data_ptr());
  run_conv("binary_conv2d", g, dense(x), dense(weight), e);
  return y;
}

// -> stream [N, K, OH, OW] or [0], words [N, OH, OW, ceil(K / 64)] or [0]
std::tuple<Tensor, Tensor> binary_conv2d_fused(const Tensor& x, const Tensor& weight, int64_t in_channels, Int2 stride,
                                               Int2 padding, Int2 dilation, int64_t groups, int64_t pad_value,
                                               const Tensor& scale, const Tensor& bias,
                                               const std::optional<Tensor>& residual,
                                               const std::optional<Tensor>& rprelu,
                                               const std::optional<Tensor>& next_shift,
                                               std::optional<ScalarType> stream_dtype) {
  const char* op = "binary_conv2d_fused";
  const ConvGeometry g = words_geometry(op, x, weight, {in_channels, stride, padding, dilation, groups, pad_value});
  const FusedOutputs out =
      make_fused(op, x, output_shape(g), {scale, bias, rprelu, next_shift}, residual, stream_dtype);
  run_conv(op, g, dense(x), dense(weight), out.epilogue);
  return {out.stream, out.words};
}

// x [N, C, H, W], latent weight [K, C / G, R, S] -> y, words, residue, weight words, weight mask, alpha
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> binary_conv2d_ste_forward(
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& shift, std::string surrogate, std::string scale,
    Int2 stride, Int2 padding, Int2 dilation, int64_t groups, int64_t pad_value) {
  const char* op = "binary_conv2d_ste";
  BNN_CHECK(x.dim() == 4, op, "x", "[N, C, H, W]", shape_text(x));
  check_float(op, "x", x, x);
  BNN_CHECK(weight.dim() == 4, op, "weight", "[K, C / G, R, S]", shape_text(weight));
  check_float(op, "weight", weight, x);
  const ConvGeometry g =
      conv_geometry(op, x, {x.size(0), x.size(2), x.size(3)}, {weight.size(0), weight.size(2), weight.size(3)},
                    {x.size(1), stride, padding, dilation, groups, pad_value});
  BNN_CHECK(weight.size(1) == g.Cg(), op, "weight", text("of ", g.Cg(), " channels a group (", g.C, " / ", groups, ")"),
            text(weight.size(1)));
  const Residue r = make_residue(op, x, shift, surrogate_of(op, surrogate));
  const BinarizedWeight w = binarize_weight(op, weight, scale);
  const Tensor y = empty_rows(output_shape(g), x.scalar_type(), x);
  Epilogue e;
  e.kind = Epilogue::Kind::scaled;
  e.channels = g.K;
  e.alpha = scale == "mean" ? static_cast<const float*>(w.alpha.const_data_ptr()) : nullptr;
  e.y = mutable_span_of(y);
  run_conv(op, g, r.words, w.words, e);
  return {y, r.words, r.residue, w.words, w.mask, w.alpha};
}

// Name of what the two ops above run on
std::string binary_conv2d_route(const Tensor& x, const Tensor& weight, int64_t in_channels, Int2 stride, Int2 padding,
                                Int2 dilation, int64_t groups, int64_t pad_value, bool words) {
  const char* op = "binary_conv2d_route";
  return conv_route(op, words_geometry(op, x, weight, {in_channels, stride, padding, dilation, groups, pad_value}), x,
                    words);
}

}  // namespace bnn::ops

BNN_REGISTER(m) {
  m.impl("binary_conv2d", TORCH_BOX(&bnn::ops::binary_conv2d));
  m.impl("binary_conv2d_fused", TORCH_BOX(&bnn::ops::binary_conv2d_fused));
  m.impl("binary_conv2d_route", TORCH_BOX(&bnn::ops::binary_conv2d_route));
  m.impl("binary_conv2d_ste_forward", TORCH_BOX(&bnn::ops::binary_conv2d_ste_forward));
}
