#include <algorithm>
#include <cstring>
#include <type_traits>

#include "bnn/with_type.h"
#include "cpu/avx2/vec.h"
#include "cpu/ukernels.h"

BNN_AVX2_BEGIN

namespace bnn::cpu::avx2 {
#include "cpu/generic/gated_add.inl"
}  // namespace bnn::cpu::avx2

BNN_TARGET_END
