#include <algorithm>
#include <cstring>
#include <type_traits>

#include "bnn/with_type.h"
#include "cpu/avx512/vec.h"
#include "cpu/ukernels.h"

BNN_AVX512_BEGIN

namespace bnn::cpu::avx512 {
#include "cpu/generic/gated_add.inl"
}  // namespace bnn::cpu::avx512

BNN_TARGET_END
