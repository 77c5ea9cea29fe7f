#pragma once

#include <cstdint>
#include <vector>

#include "bnn/bits.h"
#include "bnn/cuda.h"
#include "bnn/span.h"

namespace bnn {

// Adaptive average pooling to several sizes. Bin i of h spans rows floor(i H / h) to ceil((i + 1) H / h) - 1, likewise
// columns; with h <= H a row lies in at most two bins.
//
// A plane is [H, W, E]: an image with its channels innermost (E = C), or one channel of it (E = 1). A unit of work is
// `block` of the E elements in one plane: all levels from one read of its rows.
struct MultiresPool2d {
  struct Level {
    int64_t h = 0, w = 0;
    Span data;                        // [planes, h, w, E]: written forward, read backward
    std::vector<int32_t> start, end;  // [w]: columns of each bin, set by cpu::multires_pool2d_plan
  };

  int64_t planes = 0, H = 0, W = 0, E = 1;
  int64_t block = 1;  // CPU only
  ConstSpan x;        // [planes, H, W, E], forward
  Span grad_x;        // the same, backward
  std::vector<Level> levels;

  int64_t blocks() const { return ceil_div(E, block); }
  int64_t units() const { return planes * blocks(); }
};

// One row of bins: columns [start, end) of bin j, j in 0 .. count - 1, each over `height` rows of x.
struct PoolBins {
  const int32_t* start = nullptr;
  const int32_t* end = nullptr;
  int64_t count = 0;
  int64_t height = 1;

  float factor(int64_t j) const { return 1.0f / static_cast<float>(height * (end[j] - start[j])); }
};

namespace cpu {

// Column bins of every level
void multires_pool2d_plan(MultiresPool2d& p);

int64_t multires_pool2d_scratch(const MultiresPool2d& p);  // floats per thread

void multires_pool2d(const MultiresPool2d& p, int64_t unit_begin, int64_t unit_end, float* scratch);
void multires_pool2d_backward(const MultiresPool2d& p, int64_t unit_begin, int64_t unit_end, float* scratch);

}  // namespace cpu

namespace cuda {

inline constexpr int64_t kMaxPoolLevels = 32;  // of a gradient

// H (h + 2) and W (w + 2) of every level below 2^31
Status multires_pool2d(const MultiresPool2d& p, const Stream& stream);
Status multires_pool2d_backward(const MultiresPool2d& p, const Stream& stream);

}  // namespace cuda
}  // namespace bnn
