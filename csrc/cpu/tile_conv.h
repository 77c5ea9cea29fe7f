#pragma once

#include <cstdint>

#include "bnn/binary_conv2d.h"

namespace bnn::cpu {

// Whether the matrix unit is the faster way for this problem, if it can be used at all; fills p.tiles.
bool plan_tiles(ConvPlan& p, bool always);

// Filters packed as every call would: a multiple of 8 words, for all sizes of images
int64_t tile_packed_words(const ConvPlan& p);
void pack_tiles(const ConvPlan& p, uint64_t* packed);

int64_t tile_panels_words(const ConvPlan& p);
int64_t tile_scratch_words(const ConvPlan& p);

// Panel i of 64 filters, as far as it is prepared once a call.
void prepare_tiles(const ConvPlan& p, int64_t panel, uint64_t* scratch);

// Output pixels [begin, end)
void tile_conv(const ConvPlan& p, int64_t begin, int64_t end, uint64_t* scratch);

}  // namespace bnn::cpu
