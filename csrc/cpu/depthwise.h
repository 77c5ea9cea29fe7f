#pragma once

#include <cstdint>

#include "bnn/binary_conv2d.h"

namespace bnn::cpu {

void plan_depthwise(ConvPlan& p);
int64_t depthwise_scratch_words(const ConvPlan& p);

// Filters of one (multiplier, tap): slice i of panels.
void slice_tap(const ConvPlan& p, int64_t i);

// Output pixels [begin, end), 64 channels a word at once
void depthwise_conv(const ConvPlan& p, int64_t begin, int64_t end, uint64_t* scratch);

}  // namespace bnn::cpu
