#pragma once

#include <cstdint>
#include <limits>

#include "bnn/conv_geometry.h"
#include "bnn/epilogue.h"
#include "cuda/device.h"
#include "cuda/divisor.h"

namespace bnn::cuda {

// Output positions of one axis by which filter taps lie inside the image: [0, low) and [high, out) one by one, those
// between, which see all of the filter, as one class. By default there is one class.
struct BorderAxis {
  int low = 0, high = std::numeric_limits<int>::max(), out = std::numeric_limits<int>::max();

  constexpr int inner() const { return high > low ? 1 : 0; }
  constexpr int classes() const { return low + inner() + (out - high); }
  constexpr int class_of(int o) const { return o < low ? o : o < high ? low : low + inner() + (o - high); }
  constexpr int position_of(int c) const { return c < low + inner() ? c : high + (c - low - inner()); }
};

// A convolution as its kernels see it. Words have 32 bits here, two of them a word of docs/bit_layout.md.
struct ConvArgs {
  const uint32_t* x;       // [pixels in][pixel_words]
  const uint32_t* weight;  // [filters][taps][weight_tap_words]
  Epilogue epilogue;
  int* table;  // [row classes][column classes][filters], see border_table
  int pixels, filters, groups, group_channels, group_filters;
  int height, width;
  int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int pad_value;
  int taps;
  int pixel_words, weight_tap_words;
  int tap_words;  // that carry bits of a group's channels
  Divisor out_size, out_width, filter_width, tap;
  BorderAxis rows, columns;

  __device__ int words() const { return taps * tap_words; }  // of one output's products
};

// The corner of the filter in the image for one output pixel; maybe outside.
struct Window {
  int image;  // first row of the image in the batch
  int top, left;
};

// One word of the products of an output: its tap, the tap's distance from the window's corner, and which of the tap's
// words it is.
struct TapWord {
  int tap, row, column, word;
};

constexpr int kNowhere = std::numeric_limits<int>::min() / 2;  // from here no tap reaches the image

__device__ __forceinline__ Window window_at(const ConvArgs& a, int image, int row, int column) {
  return {image * a.height, row * a.stride_h - a.pad_h, column * a.stride_w - a.pad_w};
}

struct OutputPosition {
  int image, row, column;
};

__device__ __forceinline__ OutputPosition position_of(const ConvArgs& a, int pixel) {
  const int n = a.out_size.quotient(pixel), in_image = a.out_size.remainder(pixel, n);
  const int row = a.out_width.quotient(in_image);
  return {n, row, a.out_width.remainder(in_image, row)};
}

__device__ __forceinline__ Window window_of(const ConvArgs& a, int pixel) {
  if (pixel >= a.pixels) return {0, kNowhere, kNowhere};
  const OutputPosition p = position_of(a, pixel);
  return window_at(a, p.image, p.row, p.column);
}

__device__ __forceinline__ int border_class(const ConvArgs& a, int pixel) {
  const OutputPosition p = position_of(a, pixel);
  return a.rows.class_of(p.row) * a.columns.classes() + a.columns.class_of(p.column);
}

__device__ __forceinline__ TapWord tap_word(const ConvArgs& a, int word) {
  TapWord t;
  t.tap = a.tap.quotient(word);
  t.word = a.tap.remainder(word, t.tap);
  const int row = a.filter_width.quotient(t.tap);
  t.row = row * a.dilation_h;
  t.column = a.filter_width.remainder(t.tap, row) * a.dilation_w;
  return t;
}

__device__ __forceinline__ bool inside(const ConvArgs& a, const Window& w, const TapWord& t) {
  return static_cast<unsigned>(w.top + t.row) < static_cast<unsigned>(a.height) &&
         static_cast<unsigned>(w.left + t.column) < static_cast<unsigned>(a.width);
}

__device__ __forceinline__ const uint32_t* pixel_under(const ConvArgs& a, const Window& w, const TapWord& t) {
  return a.x + (int64_t{w.image + w.top + t.row} * a.width + w.left + t.column) * a.pixel_words;
}

// Bits of a group's channels that word t.word of a tap holds.
__device__ __forceinline__ uint32_t valid_bits(const ConvArgs& a, const TapWord& t) {
  const int left = a.group_channels - t.word * 32;
  return left >= 32 ? ~0u : (1u << left) - 1;
}

// Word t.word of a group's channels, cut out of a pixel; bits beyond them 0.
__device__ __forceinline__ uint32_t cut(const ConvArgs& a, const uint32_t* pixel, int group, const TapWord& t) {
  const int64_t bit = int64_t{group} * a.group_channels + t.word * 32;
  const int64_t word = bit / 32;
  uint64_t both = pixel[word];
  if (bit % 32 != 0 && word + 1 < a.pixel_words) both |= uint64_t{pixel[word + 1]} << 32;
  return static_cast<uint32_t>(both >> (bit % 32)) & valid_bits(a, t);
}

__device__ __forceinline__ const uint32_t* weight_word(const ConvArgs& a, int64_t filter, const TapWord& t) {
  return a.weight + (filter * a.taps + t.tap) * a.weight_tap_words + t.word;
}

}  // namespace bnn::cuda
