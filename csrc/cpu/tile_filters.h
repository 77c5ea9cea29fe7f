#pragma once

#include <cstdint>

#include "bnn/binary_conv2d.h"
#include "cpu/ukernels.h"

// What products on a matrix unit need of the filters of a call.

namespace bnn::cpu {

// Memory cut into parts, each on cache lines of its own. Without memory it only counts.
class Parts {
 public:
  explicit Parts(void* begin = nullptr) : at_(reinterpret_cast<uintptr_t>(begin)) {}

  template <class T>
  T* take(int64_t count) {
    auto* part = reinterpret_cast<T*>(at_ + static_cast<uintptr_t>(bytes_));
    bytes_ += ceil_div(count * static_cast<int64_t>(sizeof(T)), 64) * 64;
    return part;
  }

  int64_t bytes() const { return bytes_; }

 private:
  uintptr_t at_;
  int64_t bytes_ = 0;
};

// What a call makes of a panel of filters. Where words alone are asked for and limited is 1, base says what the rest of
// a dot product has to be below for a bit of 1, or of 0 where its bit of falling is 1.
struct Bounds {
  int16_t* base;  // [classes, 64]
  uint8_t* limited;
  uint64_t* falling;

  Bounds(const ConvPlan& p, Parts& parts);
};

// Of panel i; bytes from one to the next
PackedPanel packed_panel(const ConvPlan& p, int64_t i);
Bounds bounds_of_panel(const ConvPlan& p, int64_t i);
int64_t packed_bytes(const ConvPlan& p);
int64_t bounds_bytes(const ConvPlan& p);

// Whether any panel writes its words itself.
bool any_limited(const ConvPlan& p);

// Scratch to prepare a panel
int64_t packing_bytes(const ConvPlan& p);

}  // namespace bnn::cpu
