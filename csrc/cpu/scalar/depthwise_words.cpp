#include <cstring>

#include "cpu/ukernels.h"

namespace bnn::cpu::scalar {
#include "cpu/generic/depthwise_words.inl"

void depthwise_words(const DepthwiseWords& q) { depthwise_words_by<uint64_t>(q); }

}  // namespace bnn::cpu::scalar
