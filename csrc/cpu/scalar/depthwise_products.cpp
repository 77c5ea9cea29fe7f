#include <algorithm>
#include <cstring>

#include "cpu/ukernels.h"

namespace bnn::cpu::scalar {
#include "cpu/generic/depthwise_products.inl"

void depthwise_products(const DepthwiseProducts& q) { depthwise_products_by<uint64_t>(q); }

}  // namespace bnn::cpu::scalar
