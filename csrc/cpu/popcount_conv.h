#pragma once

#include <cstdint>

#include "bnn/binary_conv2d.h"

namespace bnn::cpu {

// Fills what popcounts need of a plan.
void plan_popcount(ConvPlan& p);

// Filters packed as every call would: a multiple of 8 words, for all sizes of images
int64_t popcount_packed_words(const ConvPlan& p);
void pack_popcount(const ConvPlan& p, uint64_t* packed);

int64_t popcount_panels_words(const ConvPlan& p);
int64_t popcount_scratch_words(const ConvPlan& p);

// Chunk i of 64 filters, as far as it is prepared once a call
void prepare_popcount(const ConvPlan& p, int64_t chunk, uint64_t* scratch);

// Output pixels [begin, end)
void popcount_conv(const ConvPlan& p, int64_t begin, int64_t end, uint64_t* scratch);

}  // namespace bnn::cpu
