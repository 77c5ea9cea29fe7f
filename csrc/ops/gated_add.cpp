#if !defined(BNN_EMULATED)
#include "bnn/gated_add.h"

#include "ops/check.h"
#include "ops/epilogue.h"
#include "ops/ops.h"
#include "ops/parallel.h"
#include "ops/tensor.h"

namespace bnn::ops {

// x, residual [N, C, H, W], gate [N, C, 1, 1] -> stream [N, C, H, W] or [0], words [N, H, W, ceil(C / 64)] or [0]
std::tuple<Tensor, Tensor> gated_add(const Tensor& x, const Tensor& residual, const Tensor& gate, const Factors& f,
                                     bool multiply, std::optional<ScalarType> stream_dtype, Residual after) {
  const char* op = "gated_add";
  BNN_CHECK(x.dim() == 4, op, "x", "[N, C, H, W]", shape_text(x));
  check_float(op, "x", x, x);
  check_shape(op, "gate", gate, {x.size(0), x.size(1), 1, 1});
  check_float(op, "gate", gate, x);
  FusedOutputs out = make_outputs(op, x, shape_of(x), residual, stream_dtype, f.next_shift || !stream_dtype, after);
  set_factors(op, f, x, x.size(1), out.epilogue, out.held);
  const Tensor pixels = channels_innermost(x), gates = dense(gate);
  const GatedAdd p{span_of(pixels), span_of(gates), x.size(2) * x.size(3), multiply, out.epilogue};
  const int64_t channels = x.size(1), words = ceil_div(channels, 2);
  parallel(row_count(x), channels, [&](int64_t begin, int64_t end) {
    cpu::gated_add(p, begin, end, reinterpret_cast<float*>(scratch<Slot::thread>(words)));
  });
  return {out.stream, out.words};
}

namespace {

std::tuple<Tensor, Tensor> gated_add_op(const Tensor& x, const Tensor& residual, const Tensor& gate,
                                        const Tensor& scale, const Tensor& bias, bool multiply,
                                        const std::optional<Tensor>& next_shift,
                                        std::optional<ScalarType> stream_dtype) {
  return gated_add(x, residual, gate, {scale, bias, std::nullopt, next_shift}, multiply, stream_dtype, Residual::stays);
}

}  // namespace
}  // namespace bnn::ops

STABLE_TORCH_LIBRARY_IMPL(bnn, CPU, m) { m.impl("gated_add", TORCH_BOX(&bnn::ops::gated_add_op)); }
#endif
