#pragma once

#include <cstdint>
#include <vector>

#include "bnn/bits.h"
#include "bnn/span.h"

namespace bnn {

// Adaptive average pooling to several sizes. Bin i of h spans rows floor(i H / h) to ceil((i + 1) H / h) - 1, likewise columns;
// with h <= H a row lies in at most two bins.
//
// A plane is [H, W, E]: an image with its channels innermost (E = C), or one channel of it (E = 1). A unit of work is `block`
// of the E elements in one plane: all levels from one read of its rows.
struct MultiresPool2d {
  struct Level {
    int64_t h = 0, w = 0;
    Span data;  // [planes, h, w, E]: written forward, read backward
  };

  int64_t planes = 0, H = 0, W = 0, E = 1;
  int64_t block = 1;
  ConstSpan x;  // [planes, H, W, E], forward
  Span grad_x;  // the same, backward
  std::vector<Level> levels;

  int64_t blocks() const { return ceil_div(E, block); }
  int64_t units() const { return planes * blocks(); }
};

namespace cpu {

int64_t multires_pool2d_scratch(const MultiresPool2d& p);  // floats per thread

void multires_pool2d(const MultiresPool2d& p, int64_t unit_begin, int64_t unit_end, float* scratch);
void multires_pool2d_backward(const MultiresPool2d& p, int64_t unit_begin, int64_t unit_end, float* scratch);

}  // namespace cpu
}  // namespace bnn
