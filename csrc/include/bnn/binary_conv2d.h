#pragma once

#include <cstdint>
#include <vector>

#include "bnn/conv_geometry.h"
#include "bnn/epilogue.h"

namespace bnn {

// What exact zero padding takes off: border pixels fall into classes by which filter rows and columns lie inside.
struct BorderClasses {
  std::vector<int32_t> row_class;      // [OH]
  std::vector<int32_t> column_class;   // [OW]
  std::vector<TapRange> rows;          // one per row class: filter rows inside
  std::vector<TapRange> columns;       // one per column class
};

struct BinaryConv2d {
  ConvGeometry geometry;
  const uint64_t* x = nullptr;       // [N, H, W, L]
  const uint64_t* weight = nullptr;  // [K, R, S, Lg]
  Epilogue epilogue;

  // Set by binary_conv2d_plan.
  int64_t row_words = 0;    // words of one pixel's filter window, bits packed without gaps between taps
  int64_t group_panels = 0;  // panels of 16 filters per group
  int64_t ld = 0;           // columns of the dot product scratch, with room for the last panel's overhang
  int64_t strip = 0;        // output pixels per strip
  bool border_sums = false;  // zero padding has to be taken off
  BorderClasses border;

  // Filled by binary_conv2d_prepare. Depthwise: slices [K / C, taps, L], bit c = filter c * K / C + m.
  uint64_t* panels = nullptr;      // [G, group_panels, row_words, 16]
  int32_t* border_table = nullptr;  // [row classes, column classes, ld]: sum over the taps outside of sum_c w
};

namespace cpu {

// Sizes and border classes. Allocates; everything after it works in memory that the caller brings.
void binary_conv2d_plan(BinaryConv2d& p);

int64_t panels_words(const BinaryConv2d& p);
int64_t border_table_size(const BinaryConv2d& p);  // int32 elements
int64_t prepare_count(const BinaryConv2d& p);      // panels to prepare
int64_t scratch_words(const BinaryConv2d& p);      // per thread, for prepare as for the strips

void binary_conv2d_prepare(const BinaryConv2d& p, int64_t begin, int64_t end, uint64_t* scratch);

// Output pixels [begin, end) of N * OH * OW
void binary_conv2d(const BinaryConv2d& p, int64_t begin, int64_t end, uint64_t* scratch);

}  // namespace cpu
}  // namespace bnn
