#pragma once

#include <cstdint>

#include "bnn/bits.h"

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

}  // namespace bnn::cpu
