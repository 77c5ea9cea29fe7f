#include "ops/conv.h"

#include <limits>

#include "ops/check.h"
#include "ops/run.h"

namespace bnn::ops {
namespace {

constexpr int64_t kMaxSize = std::numeric_limits<int32_t>::max();  // of one dimension: keeps index arithmetic in int64
constexpr int64_t kMaxBits = int64_t{1} << 30;                     // products per output: 2 * mismatches stays in int32
constexpr int64_t kMaxCudaPadded = int64_t{1} << 30;               // there positions in the padded image have 32 bits

void check_pair(const char* op, const char* argument, const std::vector<int64_t>& v, int64_t least) {
  const bool fits = v.size() == 2 && v[0] >= least && v[1] >= least && v[0] <= kMaxSize && v[1] <= kMaxSize;
  BNN_CHECK(fits, op, argument, text("two integers of at least ", least, " and at most ", kMaxSize), list_text(v));
}

void check_sizes(const char* op, const char* argument, const std::vector<int64_t>& sizes) {
  for (int64_t n : sizes) BNN_CHECK(n <= kMaxSize, op, argument, text("of sizes up to ", kMaxSize), text(n));
}

// Size along one axis of the output
int64_t out_size(const char* op, const char* name, int64_t in, int64_t filter, int64_t stride, int64_t pad,
                 int64_t dilation) {
  BNN_CHECK(filter > 0, op, "weight", text("of positive ", name), text(filter));
  const int64_t reach = dilation * (filter - 1) + 1, padded = in + 2 * pad;
  BNN_CHECK(padded >= reach, op, "x", text("of a padded ", name, " of at least ", reach, ", the filter's reach"),
            text(padded));
  return conv_out_size(in, filter, stride, pad, dilation);
}

}  // namespace

ConvGeometry conv_geometry(const char* op, const Tensor& x, const std::vector<int64_t>& image,
                           const std::vector<int64_t>& filters, const ConvArguments& a) {
  BNN_CHECK(a.in_channels > 0 && a.in_channels <= kMaxSize, op, "in_channels", "positive", text(a.in_channels));
  check_pair(op, "stride", a.stride, 1);
  check_pair(op, "padding", a.padding, 0);
  check_pair(op, "dilation", a.dilation, 1);
  check_sizes(op, "x", image);
  check_sizes(op, "weight", filters);
  BNN_CHECK(a.groups >= 1 && a.in_channels % a.groups == 0 && filters[0] % a.groups == 0, op, "groups",
            text("a divisor of the ", a.in_channels, " input and ", filters[0], " output channels"), text(a.groups));
  BNN_CHECK(a.pad_value >= -1 && a.pad_value <= 1, op, "pad_value", "-1, 0 or +1", text(a.pad_value));
  ConvGeometry g;
  g.N = image[0], g.H = image[1], g.W = image[2], g.C = a.in_channels;
  g.K = filters[0], g.R = filters[1], g.S = filters[2], g.G = a.groups;
  g.stride_h = a.stride[0], g.stride_w = a.stride[1];
  g.pad_h = a.padding[0], g.pad_w = a.padding[1];
  g.dilation_h = a.dilation[0], g.dilation_w = a.dilation[1];
  g.pad_value = static_cast<int>(a.pad_value);
  g.OH = out_size(op, "height", g.H, g.R, g.stride_h, g.pad_h, g.dilation_h);
  g.OW = out_size(op, "width", g.W, g.S, g.stride_w, g.pad_w, g.dilation_w);
  int64_t bits = 0;
  const bool overflow = __builtin_mul_overflow(g.taps(), g.Cg(), &bits);
  BNN_CHECK(!overflow && bits <= kMaxBits, op, "weight", text("of at most ", kMaxBits, " products an output"),
            text(g.R, " x ", g.S, " x ", g.Cg()));
  check_row_count(op, "the output", x, g.N, g.OH, g.OW);
  const bool wide = g.H + 2 * g.pad_h > kMaxCudaPadded || g.W + 2 * g.pad_w > kMaxCudaPadded;
  BNN_CHECK(!(on_cuda(x) && g.padded() && wide), op, "padding",
            text("such that the padded image has at most ", kMaxCudaPadded, " rows and columns on CUDA"),
            list_text(a.padding));
  return g;
}

#if !defined(BNN_EMULATED)
namespace {

// Pixels that a thread takes at once: whole images, where there are a few for each thread.
int64_t piece_of(const ConvGeometry& g) {
  const int64_t threads = torch::stable::get_num_threads(), image = g.OH * g.OW;
  if (threads > 1 && g.N >= 2 * threads) return ceil_div(g.N, 4 * threads) * image;
  return ceil_div(g.pixels(), threads);
}

}  // namespace

void run_conv_on_cpu(const BinaryConv2d& problem) {
  const ConvGeometry& g = problem.geometry;
  if (g.pixels() == 0 || g.K == 0) return;
  cpu::ConvPlan p = cpu::binary_conv2d_plan(problem);
  const int64_t image = cpu::image_words(p), panels = cpu::panels_words(p), need = cpu::scratch_words(p);
  BNN_CHECK(image >= 0, "binary_conv2d", "padding", "small enough to address the padded image",
            text("[", g.pad_h, ", ", g.pad_w, "]"));
  p.panels = scratch<Slot::call>(panels + image);
  p.image = reinterpret_cast<char*>(p.panels + panels);
  const int64_t rows = cpu::image_rows(p), units = cpu::filter_units(p);
  if (rows > 0) {
    parallel(rows, image / rows, [&](int64_t begin, int64_t end) { cpu::binary_conv2d_image(p, begin, end); });
  }
  parallel(units, panels / units * 4,
           [&](int64_t begin, int64_t end) { cpu::binary_conv2d_filters(p, begin, end, scratch<Slot::thread>(need)); });
  parallel_pieces(g.pixels(), piece_of(g), cpu::pixel_words(p) / 8 + g.K,
                  [&](int64_t begin, int64_t end) { cpu::binary_conv2d(p, begin, end, scratch<Slot::thread>(need)); });
}
#endif

void run_conv(const char* op, const ConvGeometry& geometry, const Tensor& x, const Tensor& weight,
              const Epilogue& epilogue) {
  if (geometry.pixels() == 0 || geometry.K == 0) return;
  const BinaryConv2d p{geometry,
                       static_cast<const uint64_t*>(x.const_data_ptr()),
                       static_cast<const uint64_t*>(weight.const_data_ptr()),
                       epilogue,
                       {}};
  run(
      op, x, [&] { run_conv_on_cpu(p); },
      [&](const cuda::Stream& stream) {
        const Tensor workspace = empty({cuda::binary_conv2d_workspace(p, stream)}, ScalarType::Byte, x);
        return cuda::binary_conv2d(p, workspace.mutable_data_ptr(), stream);
      });
}

std::string conv_route(const char* op, const ConvGeometry& geometry, const Tensor& x, bool words) {
  BinaryConv2d p;
  p.geometry = geometry;
  uint64_t some = 0;
  if (words) p.epilogue.words = &some;
  std::string name;
  run(
      op, x, [&] { name = cpu::binary_conv2d_route(cpu::binary_conv2d_plan(p)); },
      [&](const cuda::Stream& stream) {
        name = cuda::binary_conv2d_route(p, stream);
        return 0;
      });
  return name;
}

}  // namespace bnn::ops
