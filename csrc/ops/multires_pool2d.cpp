#include "bnn/multires_pool2d.h"

#include <algorithm>

#include "ops/check.h"
#include "ops/ops.h"
#include "ops/run.h"
#include "ops/tensor.h"

namespace bnn::ops {
namespace {

constexpr int64_t kLine = 4096;  // elements of a row buffer: a few of them fit in L1
constexpr int64_t kMinBlock = 64;

MemoryFormat format_of(const Tensor& x) {
  return is_channels_last(x) && !x.is_contiguous() ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}

Tensor in_format(const Tensor& x, MemoryFormat format) {
  return format == MemoryFormat::ChannelsLast ? channels_innermost(x) : dense(x);
}

Tensor empty_like(const Tensor& x, int64_t h, int64_t w, MemoryFormat format) {
  const std::vector<int64_t> shape{x.size(0), x.size(1), h, w};
  return format == MemoryFormat::ChannelsLast ? empty_rows(shape, x.scalar_type(), x)
                                              : empty(shape, x.scalar_type(), x);
}

// Planes of images [N, C, H, W] in the given format
MultiresPool2d planes_of(int64_t N, int64_t C, int64_t H, int64_t W, MemoryFormat format) {
  MultiresPool2d p;
  const bool channels_last = format == MemoryFormat::ChannelsLast;
  p.planes = channels_last ? N : N * C;
  p.E = channels_last ? C : 1;
  p.H = H;
  p.W = W;
  p.block = std::min(p.E, std::max(kMinBlock, kLine / W / 16 * 16));
  return p;
}

// x [N, C, H, W] or what has these sizes: what CUDA kernels can count
void check_count(const char* op, const char* argument, const Tensor& x, int64_t H, int64_t W) {
  check_row_count(op, argument, x, x.size(0), x.size(1), H);
  check_row_count(op, argument, x, H, H + 2);
  check_row_count(op, argument, x, W, W + 2);
}

struct PoolKernel {
  void (*cpu)(const MultiresPool2d&, int64_t unit_begin, int64_t unit_end, float* scratch);
  cuda::Status (*cuda)(const MultiresPool2d&, const cuda::Stream&);
};

void run_pool(const char* op, const Tensor& x, PoolKernel kernel, MultiresPool2d& p) {
  run(
      op, x,
      [&] {
        cpu::multires_pool2d_plan(p);
        const int64_t words = ceil_div(cpu::multires_pool2d_scratch(p), 2);
        parallel(p.units(), p.H * p.W * p.block, [&](int64_t begin, int64_t end) {
          kernel.cpu(p, begin, end, reinterpret_cast<float*>(scratch<Slot::thread>(words)));
        });
      },
      [&](const cuda::Stream& stream) { return kernel.cuda(p, stream); });
}

}  // namespace

// x [N, C, H, W] -> one [N, C, h, w] per pair of sizes, in the memory format of x
std::vector<Tensor> multires_pool2d(const Tensor& x, std::vector<int64_t> sizes) {
  const char* op = "multires_pool2d";
  BNN_CHECK(x.dim() == 4, op, "x", "[N, C, H, W]", shape_text(x));
  check_float(op, "x", x, x);
  BNN_CHECK(!sizes.empty() && sizes.size() % 2 == 0, op, "sizes", "at least one (h, w) pair", list_text(sizes));
  check_count(op, "x", x, x.size(2), x.size(3));
  const MemoryFormat format = format_of(x);
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < sizes.size(); i += 2) {
    const int64_t h = sizes[i], w = sizes[i + 1];
    BNN_CHECK(h >= 1 && h <= x.size(2) && w >= 1 && w <= x.size(3), op, "sizes",
              text("between (1, 1) and the input's (", x.size(2), ", ", x.size(3), ")"), text("(", h, ", ", w, ")"));
    outputs.push_back(empty_like(x, h, w, format));
  }
  if (x.numel() == 0) return outputs;
  const Tensor input = in_format(x, format);
  MultiresPool2d p = planes_of(x.size(0), x.size(1), x.size(2), x.size(3), format);
  p.x = span_of(input);
  for (const Tensor& y : outputs) p.levels.push_back({y.size(2), y.size(3), mutable_span_of(y), {}, {}});
  run_pool(op, x, BNN_KERNEL(multires_pool2d), p);
  return outputs;
}

// One gradient [N, C, h, w] per level -> [N, C, H, W] in the memory format of the first
Tensor multires_pool2d_backward(std::vector<Tensor> grads, int64_t H, int64_t W) {
  const char* op = "multires_pool2d_backward";
  BNN_CHECK(!grads.empty(), op, "grads", "at least one tensor", "none");
  const Tensor& first = grads[0];
  BNN_CHECK(first.dim() == 4, op, "grads", "[N, C, h, w]", shape_text(first));
  check_count(op, "grads", first, H, W);
  const auto count = static_cast<int64_t>(grads.size());
  BNN_CHECK(!on_cuda(first) || count <= cuda::kMaxPoolLevels, op, "grads",
            text("at most ", cuda::kMaxPoolLevels, " tensors on CUDA"), text(count));
  const MemoryFormat format = format_of(first);
  for (Tensor& grad : grads) {
    BNN_CHECK(grad.dim() == 4 && grad.size(0) == first.size(0) && grad.size(1) == first.size(1), op, "grads",
              text("[", first.size(0), ", ", first.size(1), ", h, w]"), shape_text(grad));
    check_float(op, "grads", grad, first);
    BNN_CHECK(grad.scalar_type() == first.scalar_type(), op, "grads", "of one dtype", dtype_text(grad));
    BNN_CHECK(grad.size(2) >= 1 && grad.size(2) <= H && grad.size(3) >= 1 && grad.size(3) <= W, op, "grads",
              text("between (1, 1) and the input's (", H, ", ", W, ")"), shape_text(grad));
    grad = in_format(grad, format);
  }
  const Tensor grad_x = empty_like(first, H, W, format);
  if (grad_x.numel() == 0) return grad_x;
  MultiresPool2d p = planes_of(first.size(0), first.size(1), H, W, format);
  p.grad_x = mutable_span_of(grad_x);
  for (const Tensor& grad : grads) {
    p.levels.push_back(
        {grad.size(2), grad.size(3), {const_cast<void*>(grad.const_data_ptr()), p.grad_x.dtype}, {}, {}});
  }
  run_pool(op, first, BNN_KERNEL(multires_pool2d_backward), p);
  return grad_x;
}

}  // namespace bnn::ops

BNN_REGISTER(m) {
  m.impl("multires_pool2d", TORCH_BOX(&bnn::ops::multires_pool2d));
  m.impl("multires_pool2d_backward", TORCH_BOX(&bnn::ops::multires_pool2d_backward));
}
