#include "bnn/gated_add.h"

#include <algorithm>

#include "cpu/ukernels.h"

namespace bnn::cpu {

void gated_add(const GatedAdd& p, int64_t begin, int64_t end, float* factors) {
  while (begin < end) {
    const int64_t image = begin / p.pixels, stop = std::min(end, (image + 1) * p.pixels);
    ukernels().gated_rows(p, image, begin, stop - begin, factors);
    begin = stop;
  }
}

}  // namespace bnn::cpu
