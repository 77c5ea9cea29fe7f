#pragma once

#include <cstdint>

#include "bnn/binary_conv2d.h"

namespace bnn::cpu {

void plan_depthwise(ConvPlan& p);

// Filters in slices: slice m taps + t has tap t of filters m, m + K / C, .. of every channel; one word of each slice
int64_t depthwise_packed_words(const ConvGeometry& g);
void pack_depthwise(const BinaryConv2d& p, int64_t l, uint64_t* packed);

int64_t depthwise_panels_words(const ConvPlan& p);
int64_t depthwise_scratch_words(const ConvPlan& p);
void prepare_depthwise(const ConvPlan& p, int64_t l);

// Output pixels [begin, end), 64 channels a word at once
void depthwise_conv(const ConvPlan& p, int64_t begin, int64_t end, uint64_t* scratch);

}  // namespace bnn::cpu
