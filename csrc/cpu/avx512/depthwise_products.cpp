#include <algorithm>
#include <cstring>

#include "cpu/target.h"
#include "cpu/ukernels.h"

BNN_AVX512_BEGIN

namespace bnn::cpu::avx512 {
#include "cpu/generic/depthwise_products.inl"

namespace {

using Two __attribute__((vector_size(16))) = uint64_t;
using Four __attribute__((vector_size(32))) = uint64_t;
using Eight __attribute__((vector_size(64))) = uint64_t;

}  // namespace

void depthwise_products(const DepthwiseProducts& q) { depthwise_products_by<Eight, Four, Two, uint64_t>(q); }

}  // namespace bnn::cpu::avx512

BNN_TARGET_END
