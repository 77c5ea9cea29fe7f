#include "bnn/gated_add.h"

#include "ops/check.h"
#include "ops/epilogue.h"
#include "ops/ops.h"
#include "ops/run.h"
#include "ops/tensor.h"

namespace bnn::ops {
namespace {

struct Kernel {
  void (*cpu)(const GatedAdd&, int64_t begin, int64_t end, float* factors);
  cuda::Status (*cuda)(const GatedAdd&, int64_t rows, const cuda::Stream&);
};

}  // namespace

// x, residual [N, C, H, W], gate [N, C, 1, 1] -> stream [N, C, H, W] or [0], words [N, H, W, ceil(C / 64)] or [0]
std::tuple<Tensor, Tensor> gated_add(const Tensor& x, const Tensor& residual, const Tensor& gate, const Factors& f,
                                     bool multiply, std::optional<ScalarType> stream_dtype, Residual after) {
  const char* op = "gated_add";
  BNN_CHECK(x.dim() == 4, op, "x", "[N, C, H, W]", shape_text(x));
  check_float(op, "x", x, x);
  check_row_count(op, "x", x, x.size(0), x.size(2), x.size(3));
  check_shape(op, "gate", gate, {x.size(0), x.size(1), 1, 1});
  check_float(op, "gate", gate, x);
  FusedOutputs out = make_outputs(op, x, shape_of(x), residual, stream_dtype, f.next_shift || !stream_dtype, after);
  set_factors(op, f, x, x.size(1), out.epilogue, out.held);
  const Tensor pixels = channels_innermost(x), gates = dense(gate);
  const GatedAdd p{span_of(pixels), span_of(gates), x.size(2) * x.size(3), multiply, out.epilogue};
  const int64_t rows = row_count(x), channels = x.size(1);
  const Kernel kernel = BNN_KERNEL(gated_add);
  const auto cpu = [&] {
    parallel(rows, channels, [&](int64_t begin, int64_t end) {
      kernel.cpu(p, begin, end, reinterpret_cast<float*>(scratch<Slot::thread>(ceil_div(channels, 2))));
    });
  };
  if (x.numel() != 0) run(op, x, cpu, [&](const cuda::Stream& stream) { return kernel.cuda(p, rows, stream); });
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

BNN_REGISTER(m) { m.impl("gated_add", TORCH_BOX(&bnn::ops::gated_add_op)); }
