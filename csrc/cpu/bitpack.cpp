#include "bnn/bitpack.h"

#include "cpu/ukernels.h"

namespace bnn::cpu {

void bitpack(const Bitpack& p, int64_t row_begin, int64_t row_end) {
  ukernels().bitpack(p.x.at(row_begin * p.channels), p.shift, row_end - row_begin, p.channels,
                     p.words + row_begin * words_for(p.channels));
}

void bitunpack(const Bitunpack& p, int64_t row_begin, int64_t row_end) {
  ukernels().bitunpack(p.words + row_begin * words_for(p.channels), row_end - row_begin, p.channels,
                       p.y.at(row_begin * p.channels));
}

}  // namespace bnn::cpu
