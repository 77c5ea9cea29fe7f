#if !defined(BNN_EMULATED)
#include <torch/csrc/stable/ops.h>

#include <array>
#include <cstring>
#include <optional>
#include <tuple>
#include <vector>

#include "ops/check.h"
#include "ops/ops.h"

// Consecutive layers of a packed network in one call: what lies between two kernels is this loop instead of Python.

namespace bnn::ops {
namespace {

constexpr const char* kOp = "run_steps";

// A row of `code`, as bnn/ops/run_steps.py writes it
struct Step {
  int64_t kind, x, residual, gate, output;   // residual, gate: -1 for none
  int64_t x_ends, residual_ends, gate_ends;  // nobody reads them again
  int64_t constant;                          // the first one of this step
  int64_t dtype;                             // of the stream
  int64_t words, shift, mean, multiply;
  int64_t kernel_size[2], stride[2], padding[2], pool[3];
};
constexpr int64_t kColumns = sizeof(Step) / sizeof(int64_t);

enum Kind : int64_t {
  kBinaryConv2d,
  kInt8Conv2d,
  kInt8Linear,
  kGatedAdd,
  kAvgPool2d,
  kPixelMean,
  kRelu,
  kSigmoid,
  kPrelu,
  kBlend,
  kCat,
  kOutput
};

using Values = std::vector<std::optional<Tensor>>;
using Outputs = std::tuple<Tensor, Tensor>;

std::vector<int64_t> pair(const int64_t (&values)[2]) { return {values[0], values[1]}; }

// torch's function of that name; it looks the name up, which costs microseconds
template <class... Arguments>
Tensor call_torch(const char* name, const char* overload, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(arguments)> stack{torch::stable::detail::from(arguments)...};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

Tensor as_type(const Tensor& t, ScalarType dtype) { return t.scalar_type() == dtype ? t : torch::stable::to(t, dtype); }

std::optional<ScalarType> stream_dtype(const Step& s) {
  constexpr ScalarType kTypes[] = {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half};
  BNN_CHECK(s.dtype >= 0 && s.dtype <= 3, kOp, "code", "of dtypes 0 to 3", text(s.dtype));
  return s.dtype == 0 ? std::nullopt : std::optional(kTypes[s.dtype - 1]);
}

class Interpreter {
 public:
  Interpreter(std::vector<Tensor>& inputs, std::vector<Tensor>& constants, int64_t steps)
      : inputs_(static_cast<int64_t>(inputs.size())), constants_(constants) {
    values_.resize(inputs.size() + 2 * static_cast<size_t>(steps));
    std::move(inputs.begin(), inputs.end(), values_.begin());
  }

  void run(const Step& s) {
    const Tensor x = value(s.x);
    const std::optional<Tensor> residual = optional_value(s.residual), gate = optional_value(s.gate);
    switch (s.kind) {
      case kBinaryConv2d: {
        const bool packed = x.scalar_type() == ScalarType::Long;
        const std::optional<Tensor> shift = s.shift != 0 ? std::optional(constant(s, 1)) : std::nullopt;
        put(s, prepared_conv2d(packed ? x : bitpack(x, shift), constant(s, 0), {}, residual, stream_dtype(s),
                               s.words != 0, after(s)));
        break;
      }
      case kInt8Conv2d:
        put(s, in_8_bits(s, x, s.pool[0] == 0 ? std::vector<int64_t>{} : std::vector(s.pool, s.pool + 3)));
        break;
      case kInt8Linear:
        put(s, linear_in_8_bits(s, x));
        break;
      case kGatedAdd: {
        const Factors factors{constant(s, 0), constant(s, 1), std::nullopt, next_shift(s, 2)};
        put(s, ops::gated_add(x, given(residual), given(gate), factors, s.multiply != 0, stream_dtype(s), after(s)));
        break;
      }
      case kAvgPool2d:
        set(s.output, avg_pool2d(s, x));
        break;
      case kPixelMean:
        set(s.output, multires_pool2d(x, {1, 1})[0]);
        break;
      case kRelu:
        set(s.output, call_torch("aten::relu", "", x));
        break;
      case kSigmoid:
        set(s.output, call_torch("aten::sigmoid", "", x));
        break;
      case kPrelu:
        set(s.output, call_torch("aten::prelu", "", x, constant(s, 0)));
        break;
      case kBlend:
        set(s.output, blend(x, given(residual), constant(s, 0)));
        break;
      case kCat:
        set(s.output, call_torch("aten::cat", "", std::vector{x, given(residual)}, int64_t{1}));
        break;
      case kOutput:
        outputs_.push_back(x);
        break;
      default:
        fail(kOp, "code", text("of kinds 0 to ", static_cast<int64_t>(kOutput)), text(s.kind));
    }
    end(s.x, s.x_ends);
    end(s.residual, s.residual_ends);
    end(s.gate, s.gate_ends);
  }

  std::vector<Tensor> outputs() { return std::move(outputs_); }

 private:
  const Tensor& value(int64_t place) const {
    const bool there =
        place >= 0 && place < static_cast<int64_t>(values_.size()) && values_[static_cast<size_t>(place)];
    BNN_CHECK(there, kOp, "code", "of steps that read what earlier ones made", text("place ", place));
    return *values_[static_cast<size_t>(place)];
  }

  std::optional<Tensor> optional_value(int64_t place) const {
    return place < 0 ? std::nullopt : std::optional(value(place));
  }

  static const Tensor& given(const std::optional<Tensor>& t) {
    BNN_CHECK(t, kOp, "code", "of steps that read what earlier ones made", "place -1");
    return *t;
  }

  void end(int64_t place, int64_t ends) {
    if (place >= 0 && ends != 0) values_[static_cast<size_t>(place)].reset();
  }

  void set(int64_t place, const Tensor& t) {
    const auto count = static_cast<int64_t>(values_.size());
    BNN_CHECK(place >= 0 && place < count, kOp, "code", text("of places 0 to ", count - 1), text(place));
    values_[static_cast<size_t>(place)] = t;
  }

  const Tensor& constant(const Step& s, int64_t i) const {
    const bool there = s.constant >= 0 && s.constant < static_cast<int64_t>(constants_.size()) - i;
    BNN_CHECK(there, kOp, "constants", text("with ", i, " more behind ", s.constant), text(constants_.size()));
    return constants_[static_cast<size_t>(s.constant + i)];
  }

  // Ends where it was made here, not given away, and is not read again
  Residual after(const Step& s) const {
    const bool ends = s.residual >= inputs_ && s.residual_ends != 0 && outputs_.empty();
    return ends ? Residual::ends : Residual::stays;
  }

  // Stream and words, or the one that is asked for
  void put(const Step& s, const Outputs& outputs) {
    if (s.dtype != 0) set(s.output, std::get<0>(outputs));
    if (s.words != 0) set(s.output + (s.dtype != 0 ? 1 : 0), std::get<1>(outputs));
  }

  std::optional<Tensor> next_shift(const Step& s, int64_t i) const {
    return s.words != 0 ? std::optional(constant(s, i)) : std::nullopt;
  }

  // share [C]: share a + (1 - share) b
  static Tensor blend(const Tensor& a, const Tensor& b, const Tensor& share) {
    const ScalarType dtype = a.scalar_type() == b.scalar_type() ? a.scalar_type() : ScalarType::Float;
    std::vector<int64_t> shape(static_cast<size_t>(std::max<int64_t>(a.dim(), 2)), 1);
    shape[1] = share.numel();
    const Tensor weight = torch::stable::reshape(as_type(share, dtype), shape);
    return call_torch("aten::lerp", "Tensor", as_type(b, dtype), as_type(a, dtype), weight);
  }

  Outputs in_8_bits(const Step& s, const Tensor& x, const std::vector<int64_t>& pool) const {
    return ops::int8_conv2d(x, constant(s, 0), pair(s.kernel_size), pair(s.stride), pair(s.padding), pool,
                            constant(s, 1), constant(s, 2), next_shift(s, 3), stream_dtype(s));
  }

  // x [..., C], or images [M, C, H, W] with `mean`
  Outputs linear_in_8_bits(const Step& s, const Tensor& x) const {
    using torch::stable::reshape;
    const Tensor rows = s.mean != 0 ? multires_pool2d(x, {1, 1})[0] : x;
    std::vector<int64_t> shape = s.mean != 0 ? std::vector{x.size(0), x.size(1)} : shape_of(x);
    BNN_CHECK(!shape.empty(), kOp, "x", "of at least one dimension", "a number");
    int64_t& last = shape.back();
    const int64_t count = last == 0 ? 0 : rows.numel() / last;
    auto [stream, words] = in_8_bits(s, reshape(rows, {count, last, 1, 1}), {});
    if (s.dtype != 0) last = stream.size(1), stream = reshape(stream, shape);
    if (s.words != 0) last = words.size(3), words = reshape(words, shape);
    return {stream, words};
  }

  static Tensor avg_pool2d(const Step& s, const Tensor& x) {
    BNN_CHECK(x.dim() >= 3, kOp, "x", "[C, H, W] or [N, C, H, W]", shape_text(x));
    for (const int i : {0, 1}) {
      BNN_CHECK(s.kernel_size[i] >= 1 && s.stride[i] >= 1 && s.padding[i] >= 0 && s.padding[i] <= s.kernel_size[i] / 2,
                kOp, "code", "of poolings with a size and a stride and at most half the size as padding",
                text(s.kernel_size[i], ", ", s.stride[i], ", ", s.padding[i]));
      const int64_t least = s.kernel_size[i] - 2 * s.padding[i] - (s.pool[0] != 0 ? s.stride[i] - 1 : 0);
      BNN_CHECK(x.size(x.dim() - 2 + i) >= least, kOp, "x", text("of at least ", least, " rows or columns to pool"),
                shape_text(x));
    }
    const bool ceil_mode = s.pool[0] != 0, count_include_pad = s.pool[1] != 0;
    return call_torch("aten::avg_pool2d", "", x, pair(s.kernel_size), pair(s.stride), pair(s.padding), ceil_mode,
                      count_include_pad, std::nullopt);
  }

  int64_t inputs_;
  Values values_;
  std::vector<Tensor>& constants_;
  std::vector<Tensor> outputs_;
};

}  // namespace

// code: int64 [steps, kColumns]
std::vector<Tensor> run_steps(std::vector<Tensor> inputs, std::vector<Tensor> constants, const Tensor& code) {
  const bool fits = code.dim() == 2 && code.size(1) == kColumns && code.scalar_type() == ScalarType::Long &&
                    code.is_cpu() && code.is_contiguous();
  BNN_CHECK(fits, kOp, "code", text("int64 [steps, ", kColumns, "], contiguous, on cpu"), shape_text(code));
  const int64_t count = code.size(0);
  const auto* row = static_cast<const int64_t*>(code.const_data_ptr());
  Interpreter interpreter(inputs, constants, count);
  for (int64_t i = 0; i < count; ++i, row += kColumns) {
    Step step;
    std::memcpy(&step, row, sizeof step);
    interpreter.run(step);
  }
  return interpreter.outputs();
}

}  // namespace bnn::ops

STABLE_TORCH_LIBRARY_IMPL(bnn, CPU, m) { m.impl("run_steps", TORCH_BOX(&bnn::ops::run_steps)); }
#endif
