#include "bnn/bitpack.h"

#include "ops/check.h"
#include "ops/ops.h"
#include "ops/run.h"
#include "ops/tensor.h"

namespace bnn::ops {

// x [N, C, H, W] or [M, C] -> words [N, H, W, L] or [M, L]
Tensor bitpack(const Tensor& x, const std::optional<Tensor>& shift) {
  check_rows("bitpack", "x", x);
  const int64_t channels = x.size(1);
  const ChannelVector shift_vector("bitpack", "shift", shift, channels, x);
  const Tensor rows = channels_innermost(x);
  const Tensor words = empty(innermost_shape(x, words_for(channels)), ScalarType::Long, x);
  const Bitpack p{span_of(rows), shift_vector.data(), channels, static_cast<uint64_t*>(words.mutable_data_ptr())};
  run_rows("bitpack", x, BNN_KERNEL(bitpack), p, row_count(x), channels);
  return words;
}

// words [N, H, W, L] or [M, L] -> +-1 [N, C, H, W] with channels-last strides, or [M, C]
Tensor bitunpack(const Tensor& words, int64_t channels, ScalarType dtype) {
  check_words("bitunpack", "words", words, channels, 0, words);
  BNN_CHECK(is_float_type(dtype) || dtype == ScalarType::Char, "bitunpack", "dtype",
            "float32, bfloat16, float16 or int8", dtype_text(dtype));
  const Tensor packed = dense(words);
  const std::vector<int64_t> shape = words.dim() == 4
                                         ? std::vector<int64_t>{words.size(0), channels, words.size(1), words.size(2)}
                                         : std::vector<int64_t>{words.size(0), channels};
  const Tensor y = empty_rows(shape, dtype, words);
  const Bitunpack p{static_cast<const uint64_t*>(packed.const_data_ptr()), channels, mutable_span_of(y)};
  run_rows("bitunpack", words, BNN_KERNEL(bitunpack), p, row_count(y), channels);
  return y;
}

}  // namespace bnn::ops

BNN_REGISTER(m) {
  m.impl("bitpack", TORCH_BOX(&bnn::ops::bitpack));
  m.impl("bitunpack", TORCH_BOX(&bnn::ops::bitunpack));
}
