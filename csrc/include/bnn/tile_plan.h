#pragma once

#include <cstdint>
#include <vector>

#include "bnn/bits.h"

namespace bnn::cpu {

// How a convolution runs on a matrix unit for bytes.
//
// With bits a of pixels and w of filters (1 stands for -1), dot = sum (1 - 2 a)(1 - 2 w) = base - 2 ones + 4 sum a w,
// where base = sum (1 - 2 w) belongs to the filter and ones = sum a to the pixel. Only sum a w is multiplied, as bytes
// 0 and 1, two filters in a byte. Outside the image a is 0 (1 for pad_value -1); what pad_value 0 doesn't count is left
// out of base, which there depends on the border class.
//
// A block of output positions at a time: the pixels that it reads are expanded to bytes in the thread's scratch, one
// plane for every remainder of a tap's position by the stride. There every tap is a constant distance from the output
// position, and neighbours are neighbours: an A tile is up to 16 pixels from a start on, tap by tap, 64 bytes a step.
struct TilePlan {
  int rows = 0;                   // pixels of a tile
  bool within_rows = false;       // tiles don't cross output rows; else they run over the pixels between two rows, too
  int64_t run_taps = 1;           // taps whose channels are neighbours in memory, for steps to run through
  std::vector<int64_t> taps;      // [taps] pixels from an output position to what a tap reads
  std::vector<int64_t> place;     // [steps] the step in which a word of a filter is used
  std::vector<int64_t> offsets;   // [steps] bytes from an output position to what a step of the first group reads
  std::vector<uint64_t> valid;    // [steps] bits that count, empty where all do
  std::vector<int64_t> phases_h;  // remainders of the taps' positions by the stride
  std::vector<int64_t> phases_w;
  int64_t reach_h = 0, reach_w = 0;                   // rows and columns that a plane has beyond the block
  int64_t images = 1, out_rows = 1, out_columns = 1;  // a block; several images only if whole
  int64_t shared = 0;  // columns at a row's end that are those at the next one's begin: padding on both sides
  int64_t job = 1;     // tiles that filters are expanded for at once, at most

  int64_t steps() const { return static_cast<int64_t>(offsets.size()); }
  int64_t pitch() const { return out_columns + reach_w - shared; }           // pixels from row to row
  int64_t plane() const { return (out_rows + reach_h) * pitch() + shared; }  // pixels
  int64_t run() const { return (out_rows - 1) * pitch() + out_columns; }     // pixels, first to last
  int64_t tiles_of_image() const {
    return within_rows ? out_rows * ceil_div(out_columns, rows) : ceil_div(run(), rows);
  }
  int64_t planes() const { return static_cast<int64_t>(phases_h.size() * phases_w.size()); }  // of an image
  int64_t image() const { return planes() * plane(); }                                        // pixels
  int64_t block() const { return images * image(); }                                          // pixels
};

}  // namespace bnn::cpu
