#if !defined(BNN_EMULATED)
#include <algorithm>
#include <array>
#include <cstring>
#include <tuple>

#include "bnn/binary_conv2d.h"
#include "ops/check.h"
#include "ops/conv.h"
#include "ops/epilogue.h"
#include "ops/ops.h"
#include "ops/tensor.h"

// A fused convolution but for its input, as one int64 tensor: header, filters [K, R, S, Lg], float32 factors (scale,
// bias, rprelu and next_shift where there are any), then, where this CPU reads filters in another order, the filters in
// that order. bnn/ops/prepared_conv2d.py writes and reads the same without the last part.

namespace bnn::ops {
namespace {

using Int2 = std::vector<int64_t>;

struct Header {
  int64_t magic, in_channels, K, R, S;
  std::array<int64_t, 2> stride, padding, dilation;
  int64_t groups, pad_value, rprelu, next_shift, route;
};
constexpr int64_t kHeaderWords = sizeof(Header) / 8;
constexpr int64_t kMagic = 0x32706572706e6e62;  // bnnprep2

Int2 list(const std::array<int64_t, 2>& pair) { return {pair[0], pair[1]}; }

ConvGeometry geometry_of(const char* op, const Tensor& x, const Header& h, const std::vector<int64_t>& image) {
  const Int2 stride = list(h.stride), padding = list(h.padding), dilation = list(h.dilation);
  return conv_geometry(op, x, image, {h.K, h.R, h.S},
                       {h.in_channels, stride, padding, dilation, h.groups, h.pad_value});
}

// Where the parts begin, in words
struct Parts {
  int64_t weight = kHeaderWords, factors, packed;

  Parts(const Header& h, const ConvGeometry& g)
      : factors(weight + g.K * g.taps() * g.Lg()),
        packed(ceil_div(factors + ceil_div((2 + 3 * h.rprelu + h.next_shift) * g.K, 2), 8) * 8) {}
};

}  // namespace

Tensor binary_conv2d_prepare(const Tensor& weight, int64_t in_channels, Int2 stride, Int2 padding, Int2 dilation,
                             int64_t groups, int64_t pad_value, const Tensor& scale, const Tensor& bias,
                             const std::optional<Tensor>& rprelu, const std::optional<Tensor>& next_shift) {
  const char* op = "binary_conv2d_prepare";
  BNN_CHECK(weight.dim() == 4, op, "weight", "words [K, R, S, L]", shape_text(weight));
  for (const auto& [name, pair] : {std::pair("stride", &stride), {"padding", &padding}, {"dilation", &dilation}}) {
    BNN_CHECK(pair->size() == 2, op, name, "two integers", list_text(*pair));
  }
  Header header{kMagic,
                in_channels,
                weight.size(0),
                weight.size(1),
                weight.size(2),
                {stride[0], stride[1]},
                {padding[0], padding[1]},
                {dilation[0], dilation[1]},
                groups,
                pad_value,
                rprelu ? 1 : 0,
                next_shift ? 1 : 0,
                0};
  // An image that the filter just fits into: sizes are the calls' business.
  const auto reach = [&](int i, int64_t filter) { return dilation[i] * (filter - 1) + 1; };
  const ConvGeometry g = geometry_of(op, weight, header, {1, reach(0, header.R), reach(1, header.S)});
  check_words(op, "weight", weight, g.Cg(), 4, weight);
  std::vector<Tensor> held;
  Epilogue e;
  set_factors(op, {scale, bias, rprelu, next_shift}, weight, g.K, e, held);
  const Parts parts(header, g);
  const cpu::PackedFilters packed = cpu::packed_filters(g);
  header.route = static_cast<int64_t>(packed.route);
  const Tensor out = empty({parts.packed + packed.size}, ScalarType::Long, weight);
  auto* words = static_cast<uint64_t*>(out.mutable_data_ptr());
  std::memset(words, 0, static_cast<size_t>(out.numel()) * sizeof(uint64_t));
  std::memcpy(words, &header, sizeof(header));
  const Tensor filters = dense(weight);
  std::memcpy(words + parts.weight, filters.const_data_ptr(), static_cast<size_t>(filters.numel()) * sizeof(uint64_t));
  auto* factors = reinterpret_cast<float*>(words + parts.factors);
  const auto put = [&](const float* values, int64_t count) { factors = std::copy_n(values, count, factors); };
  put(e.scale, g.K);
  put(e.bias, g.K);
  if (rprelu) put(e.rprelu, 3 * g.K);
  if (next_shift) put(e.next_shift, g.K);
  cpu::pack_filters({g, nullptr, words + parts.weight, {}, {}}, words + parts.packed);
  return out;
}

std::tuple<Tensor, Tensor> prepared_conv2d(const Tensor& x, const Tensor& prepared, const std::vector<int64_t>& shape,
                                           const std::optional<Tensor>& residual,
                                           std::optional<ScalarType> stream_dtype, bool words, Residual after) {
  const char* op = "binary_conv2d_prepared";
  BNN_CHECK(words || stream_dtype, op, "words", "true where no stream is asked for", "False");
  BNN_CHECK(prepared.scalar_type() == ScalarType::Long, op, "prepared", "int64", dtype_text(prepared));
  BNN_CHECK(prepared.is_cpu(), op, "prepared", "on cpu", device_text(prepared));
  BNN_CHECK(prepared.dim() == 1 && prepared.is_contiguous() && prepared.numel() >= kHeaderWords, op, "prepared",
            "what binary_conv2d_prepare returns", shape_text(prepared));
  const auto* data = static_cast<const uint64_t*>(prepared.const_data_ptr());
  Header header;
  std::memcpy(&header, data, sizeof(header));
  BNN_CHECK(header.magic == kMagic, op, "prepared", "what binary_conv2d_prepare returns", "another tensor");
  BNN_CHECK((header.rprelu | header.next_shift | 1) == 1, op, "prepared", "of flags 0 or 1", "others");
  BNN_CHECK(header.route >= 0 && header.route <= static_cast<int64_t>(cpu::Route::tiles), op, "prepared",
            "of a route that there is", text(header.route));
  check_words(op, "x", x, header.in_channels, 4, x);
  const ConvGeometry g = geometry_of(op, x, header, {x.size(0), x.size(1), x.size(2)});
  BNN_CHECK(shape.empty() || shape == (std::vector<int64_t>{g.K, g.OH, g.OW}), op, "shape",
            list_text(std::vector<int64_t>{g.K, g.OH, g.OW}), list_text(shape));
  const Parts parts(header, g);
  const int64_t packed = prepared.numel() - parts.packed;
  BNN_CHECK(packed >= 0, op, "prepared", text("of at least ", parts.packed, " words"), text(prepared.numel()));
  const FusedOutputs out = make_outputs(op, x, {g.N, g.K, g.OH, g.OW}, residual, stream_dtype, words, after);
  Epilogue e = out.epilogue;
  const auto* factors = reinterpret_cast<const float*>(data + parts.factors);
  e.scale = factors;
  e.bias = factors + g.K;
  if (header.rprelu != 0) e.rprelu = factors + 2 * g.K;
  if (header.next_shift != 0) e.next_shift = factors + (2 + 3 * header.rprelu) * g.K;
  const Tensor pixels = dense(x);
  const auto route = static_cast<cpu::Route>(header.route);
  run_conv_on_cpu({g,
                   static_cast<const uint64_t*>(pixels.const_data_ptr()),
                   data + parts.weight,
                   e,
                   {route, data + parts.packed, packed}});
  return {out.stream, out.words};
}

// shape: K, OH, OW or nothing -> stream [N, K, OH, OW] or [0], words [N, OH, OW, ceil(K / 64)] or [0]
std::tuple<Tensor, Tensor> binary_conv2d_prepared(const Tensor& x, const Tensor& prepared, std::vector<int64_t> shape,
                                                  const std::optional<Tensor>& residual,
                                                  std::optional<ScalarType> stream_dtype, bool words) {
  return prepared_conv2d(x, prepared, shape, residual, stream_dtype, words, Residual::stays);
}

}  // namespace bnn::ops

STABLE_TORCH_LIBRARY_IMPL(bnn, CPU, m) {
  m.impl("binary_conv2d_prepare", TORCH_BOX(&bnn::ops::binary_conv2d_prepare));
  m.impl("binary_conv2d_prepared", TORCH_BOX(&bnn::ops::binary_conv2d_prepared));
}
#endif
