#include "bnn/binary_linear.h"

#include "cpu/ukernels.h"

namespace bnn::cpu {

void binary_linear(const BinaryLinear& p, int64_t begin, int64_t end) {
  const int64_t L = words_for(p.C);
  for (int64_t m = 0; m < p.M; ++m) {
    ukernels().bgemv(p.x + m * L, p.weight + begin * L, L, end - begin, static_cast<int32_t>(p.C),
                     p.dot + m * p.K + begin);
  }
}

}  // namespace bnn::cpu
