#pragma once

#include <cstdint>

#include "bnn/bits.h"

namespace bnn {

// Sizes of a 2-D convolution. N batch, C in, K out, H W in, OH OW out, R S filter, G groups.
struct ConvGeometry {
  int64_t N = 0, C = 0, H = 0, W = 0;
  int64_t K = 0, R = 0, S = 0, G = 1;
  int64_t stride_h = 1, stride_w = 1;
  int64_t pad_h = 0, pad_w = 0;
  int64_t dilation_h = 1, dilation_w = 1;
  int pad_value = 0;  // what a pixel outside counts as: -1, 0 or +1
  int64_t OH = 0, OW = 0;

  int64_t L() const { return words_for(C); }      // words per pixel
  int64_t Cg() const { return C / G; }            // input channels per group
  int64_t Kg() const { return K / G; }            // filters per group
  int64_t Lg() const { return words_for(Cg()); }  // words per filter tap
  int64_t taps() const { return R * S; }
  int64_t bits() const { return taps() * Cg(); }  // products per output
  int64_t pixels() const { return N * OH * OW; }  // output rows of K
  bool depthwise() const { return Cg() == 1; }
  bool padded() const { return pad_h > 0 || pad_w > 0; }
};

// Output size along one axis; 0 when the filter does not fit.
constexpr int64_t conv_out_size(int64_t in, int64_t filter, int64_t stride, int64_t pad, int64_t dilation) {
  const int64_t room = in + 2 * pad - dilation * (filter - 1) - 1;
  return room < 0 ? 0 : room / stride + 1;
}

// Taps t in [begin, end) of the output position `out` fall inside [0, in).
struct TapRange {
  int64_t begin, end;

  bool contains(int64_t t) const { return t >= begin && t < end; }
};

constexpr TapRange taps_inside(int64_t out, int64_t in, int64_t filter, int64_t stride, int64_t pad, int64_t dilation) {
  const int64_t start = out * stride - pad;
  const int64_t begin = start >= 0 ? 0 : ceil_div(-start, dilation);
  const int64_t end = start >= in ? 0 : ceil_div(in - start, dilation);
  const int64_t last = end < filter ? end : filter;
  return {begin < last ? begin : last, last};
}

}  // namespace bnn
