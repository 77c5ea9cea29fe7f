#pragma once

#include <cstdint>

#include "bnn/conv_geometry.h"
#include "bnn/epilogue.h"
#include "bnn/span.h"

namespace bnn {

// Real convolution in 8 bits: an image is rounded to whole multiples of a step of its own as it is read, so that its
// largest value is 127 of them; sums are exact; the largest of a window of sums may be taken before they leave.
struct Int8Conv2d {
  struct Pool {
    int64_t size = 1, stride = 1, padding = 0;
  };

  ConvGeometry geometry;           // G = 1, no dilation; OH, OW before pooling
  int64_t planes = 1;              // see byte_planes
  Pool pool;                       // size 1: none
  int64_t PH = 0, PW = 0;          // after it
  ConstSpan x;                     // [N, planes, H, W, C / planes]
  const int8_t* panels = nullptr;  // as in ByteProducts (cpu/ukernels.h)
  Epilogue epilogue;               // fused, scale for a step of 1; rows are pixels after pooling
  float* steps = nullptr;          // [N], see cpu::image_steps

  int64_t rows() const { return geometry.N * PH; }
  int64_t elements() const { return geometry.C / planes; }  // of a pixel in a plane
  int64_t runs() const { return geometry.R * planes; }      // of ByteProducts
  int64_t run() const { return ceil_div(geometry.S * elements(), 4); }
};

// Images are read with channels innermost, as one plane, or, where that needs no more products, channel by channel as
// they come: 7 taps of 3 channels are 6 times 4 bytes either way.
constexpr int64_t byte_planes(int64_t C, int64_t S) {
  return C <= 4 && C * ceil_div(S, 4) == ceil_div(S * C, 4) ? C : 1;
}

namespace cpu {

// A sum of more products than this may leave int32: 127^2 n < 2^31.
inline constexpr int64_t kMostByteProducts = int64_t{1} << 17;

// Steps of images [begin, end): largest |x| / 127; 0 where that is below 2^-100, infinite where a value is or is NaN.
void image_steps(const Int8Conv2d& p, int64_t begin, int64_t end);

int64_t int8_conv2d_scratch(const Int8Conv2d& p);  // words per thread

// Rows [begin, end) of rows()
void int8_conv2d(const Int8Conv2d& p, int64_t begin, int64_t end, uint64_t* scratch);

}  // namespace cpu
}  // namespace bnn
