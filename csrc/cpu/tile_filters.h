#pragma once

#include <cstdint>

#include "bnn/binary_conv2d.h"
#include "cpu/filter_bounds.h"
#include "cpu/ukernels.h"

// What products on a matrix unit need of the filters of a call.

namespace bnn::cpu {

// base where limited: what the rest of a dot product has to be below for a bit of 1.
using TileBounds = Bounds<int16_t>;

// Of panel i; bytes from one to the next
PackedPanel packed_panel(const ConvPlan& p, int64_t i);
TileBounds bounds_of_panel(const ConvPlan& p, int64_t i);
int64_t packed_bytes(const ConvPlan& p);

// Whether any panel writes its words itself.
bool any_limited(const ConvPlan& p);

// Scratch to prepare a panel
int64_t packing_bytes(const ConvPlan& p);

}  // namespace bnn::cpu
