#include <algorithm>
#include <cstring>

#include "bnn/with_type.h"
#include "cpu/avx2/vec.h"
#include "cpu/narrow_bins.h"
#include "cpu/ukernels.h"

BNN_AVX2_BEGIN

namespace bnn::cpu::avx2 {
#include "cpu/generic/multires_pool2d.inl"
}  // namespace bnn::cpu::avx2

BNN_TARGET_END
