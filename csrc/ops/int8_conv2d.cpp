#if !defined(BNN_EMULATED)
#include "bnn/int8_conv2d.h"

#include <tuple>

#include "cpu/ukernels.h"
#include "ops/check.h"
#include "ops/conv.h"
#include "ops/epilogue.h"
#include "ops/ops.h"
#include "ops/parallel.h"
#include "ops/tensor.h"

namespace bnn::ops {
namespace {

using Int2 = std::vector<int64_t>;

// pool: nothing, or size, stride and padding of the windows whose largest sums leave
Int8Conv2d::Pool pool_of(const char* op, const std::vector<int64_t>& pool) {
  if (pool.empty()) return {};
  const bool fits = pool.size() == 3 && pool[0] >= 1 && pool[0] <= 64 && pool[1] >= 1 && pool[1] <= 64 &&
                    pool[2] >= 0 && 2 * pool[2] <= pool[0];
  BNN_CHECK(fits, op, "pool", "[], or size and stride of 1 to 64 and a padding of at most half the size",
            list_text(pool));
  return {pool[0], pool[1], pool[2]};
}

int64_t pooled_size(const char* op, int64_t in, const Int8Conv2d::Pool& pool) {
  BNN_CHECK(in + 2 * pool.padding >= pool.size, op, "pool", text("of a size that fits into ", in, " rows or columns"),
            text(pool.size));
  return conv_out_size(in, pool.size, pool.stride, pool.padding, 1);
}

}  // namespace

// x [N, C, H, W] -> stream [N, K, PH, PW] or [0], words [N, PH, PW, ceil(K / 64)] or [0]
std::tuple<Tensor, Tensor> int8_conv2d(const Tensor& x, const Tensor& panels, Int2 kernel_size, Int2 stride,
                                       Int2 padding, std::vector<int64_t> pool, const Tensor& scale, const Tensor& bias,
                                       const std::optional<Tensor>& next_shift,
                                       std::optional<ScalarType> stream_dtype) {
  const char* op = "int8_conv2d";
  BNN_CHECK(x.dim() == 4, op, "x", "[N, C, H, W]", shape_text(x));
  check_float(op, "x", x, x);
  BNN_CHECK(kernel_size.size() == 2 && kernel_size[0] >= 1 && kernel_size[1] >= 1, op, "kernel_size",
            "two integers of at least 1", list_text(kernel_size));
  BNN_CHECK(x.size(2) >= 1 && x.size(3) >= 1, op, "x", "of at least one pixel", shape_text(x));
  BNN_CHECK(scale.dim() == 1, op, "scale", "[K]", shape_text(scale));
  Int8Conv2d p;
  const Int2 dilation{1, 1};
  ConvGeometry& g = p.geometry;
  g = conv_geometry(op, x, {x.size(0), x.size(2), x.size(3)}, {scale.size(0), kernel_size[0], kernel_size[1]},
                    {x.size(1), stride, padding, dilation, 1, 0});
  BNN_CHECK(g.bits() <= cpu::kMostByteProducts, op, "x and kernel_size",
            text("of at most ", cpu::kMostByteProducts, " products an output"), text(g.bits()));
  p.planes = byte_planes(g.C, g.S);
  check_shape(op, "panels", panels, {ceil_div(g.K, cpu::kPanel), 1 + p.runs() * p.run(), cpu::kPanelBytes});
  BNN_CHECK(panels.scalar_type() == ScalarType::Char, op, "panels", "int8", dtype_text(panels));
  check_device(op, "panels", panels, x);
  p.pool = pool_of(op, pool);
  p.PH = pooled_size(op, g.OH, p.pool);
  p.PW = pooled_size(op, g.OW, p.pool);
  const FusedOutputs out =
      make_fused(op, x, {g.N, g.K, p.PH, p.PW}, {scale, bias, std::nullopt, next_shift}, std::nullopt, stream_dtype);
  const Tensor image = p.planes == 1 ? channels_innermost(x) : dense(x), filters = dense(panels);
  p.x = span_of(image);
  p.panels = static_cast<const int8_t*>(filters.const_data_ptr());
  p.epilogue = out.epilogue;
  std::vector<float> steps(static_cast<size_t>(g.N));
  p.steps = steps.data();
  parallel(g.N, g.H * g.W * g.C / 16, [&](int64_t begin, int64_t end) { cpu::image_steps(p, begin, end); });
  const int64_t words = cpu::int8_conv2d_scratch(p);
  parallel(p.rows(), g.OW * g.K * g.bits() / 64,
           [&](int64_t begin, int64_t end) { cpu::int8_conv2d(p, begin, end, scratch<Slot::thread>(words)); });
  return {out.stream, out.words};
}

}  // namespace bnn::ops

STABLE_TORCH_LIBRARY_IMPL(bnn, CPU, m) { m.impl("int8_conv2d", TORCH_BOX(&bnn::ops::int8_conv2d)); }
#endif
