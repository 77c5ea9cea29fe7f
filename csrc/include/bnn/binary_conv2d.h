#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "bnn/conv_geometry.h"
#include "bnn/cuda.h"
#include "bnn/epilogue.h"
#include "bnn/tile_plan.h"

namespace bnn {

namespace cpu {

// Bits and popcounts, or bytes on a matrix unit; automatic: what is expected to be faster on the current ISA.
enum class Route : uint8_t { automatic, popcount, tiles };

// Filters in the order in which a route reads them, by pack_filters; used only where it is the one taken. automatic:
// there are none.
struct PackedFilters {
  Route route = Route::automatic;
  const uint64_t* words = nullptr;
  int64_t size = 0;  // words
};

}  // namespace cpu

// Output rows are pixels of [N, OH, OW]; they leave through the epilogue.
struct BinaryConv2d {
  ConvGeometry geometry;
  const uint64_t* x = nullptr;       // [N, H, W, L]
  const uint64_t* weight = nullptr;  // [K, R, S, Lg]
  Epilogue epilogue;
  cpu::PackedFilters packed;
};

namespace cpu {

// Output positions fall into classes by which filter rows (or columns) lie inside the image.
struct BorderClasses {
  std::vector<int32_t> of;       // [OH] or [OW]: the class of a position
  std::vector<TapRange> inside;  // one per class
  std::vector<int64_t> end;      // of its positions, which are neighbours

  int64_t size() const { return static_cast<int64_t>(inside.size()); }
};

// Three steps: plan, prepare (image and filters, any order, in parallel), then strips of output pixels, in parallel.
//
// dot = bits - 2 mismatches. With pad_value 0 a tap outside must count 0, but its words say +1: the sum over its
// channels of w is taken off. That makes the start of the sum depend on the border class: base[class][k] = bits - sum
// of w over taps outside.
struct ConvPlan : BinaryConv2d {
  BorderClasses rows, columns;
  int64_t row_words = 0;     // words of one filter window, taps concatenated without gaps
  int64_t chunks = 0;        // of 64 filters per group; the matrix unit's panels
  int64_t ld = 0;            // columns of the dot product scratch, with room for the last panel's overhang
  int64_t strip = 0;         // output pixels per strip
  int64_t pixel_bytes = 0;   // of the image: ceil(C / 8) where that keeps groups on bytes, else 8 L
  bool copied = false;       // the image is a copy; else it is x
  bool gathered = false;     // windows are made up of an image's bits; else rows of the image are rows of windows
  bool skips = false;        // no products with taps outside: a window is what lies inside, and pixels go by classes
  bool border_sums = false;  // base depends on the class
  TilePlan tiles;            // the way over bytes, if taken

  bool tiled() const { return tiles.rows > 0; }

  // Workspace, brought by the caller
  char* image = nullptr;       // [N, H + 2 pad, W + 2 pad, pixel_bytes], filled with the bits of pad_value outside
  uint64_t* panels = nullptr;  // of filters, see popcount_conv.cpp, tile_filters.cpp, depthwise.cpp
};

// Filters as this CPU reads them, for calls to come with images of any size: what they take, and into size words
PackedFilters packed_filters(const ConvGeometry& g);
void pack_filters(const BinaryConv2d& problem, uint64_t* packed);

// Sizes and border classes. Allocates; everything after it works in memory that the caller brings.
ConvPlan binary_conv2d_plan(const BinaryConv2d& problem, Route route = Route::automatic);

// The instruction set that it runs on.
std::string_view binary_conv2d_route(const ConvPlan& p);

int64_t image_rows(const ConvPlan& p);    // rows of the image copy, 0 where there is none
int64_t image_words(const ConvPlan& p);   // with slack for reads past the end; -1: too large to count
int64_t filter_units(const ConvPlan& p);  // 64 filters, or channels of depthwise ones
int64_t pixel_words(const ConvPlan& p);   // of filters that an output pixel meets
int64_t panels_words(const ConvPlan& p);
int64_t scratch_words(const ConvPlan& p);  // per thread

void binary_conv2d_image(const ConvPlan& p, int64_t row_begin, int64_t row_end);
void binary_conv2d_filters(const ConvPlan& p, int64_t unit_begin, int64_t unit_end, uint64_t* scratch);

// Output pixels [begin, end) of N * OH * OW
void binary_conv2d(const ConvPlan& p, int64_t begin, int64_t end, uint64_t* scratch);

}  // namespace cpu

namespace cuda {

// Bytes that the chosen route needs beside its operands.
int64_t binary_conv2d_workspace(const BinaryConv2d& p, const Stream& stream);

Status binary_conv2d(const BinaryConv2d& p, void* workspace, const Stream& stream);

// Name of the kernel that binary_conv2d launches.
const char* binary_conv2d_route(const BinaryConv2d& p, const Stream& stream);

}  // namespace cuda
}  // namespace bnn
