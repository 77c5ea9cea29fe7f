#pragma once

#include <cstdint>

#include "cuda/device.h"

namespace bnn::cuda {

// n / d for 0 <= n < 2^31 by a multiplication: with 2^(s-1) < d <= 2^s, q = n * ceil(2^(31+s) / d) >> (31 + s).
class Divisor {
 public:
  Divisor() = default;
  explicit Divisor(int64_t d) : divisor_(static_cast<int>(d)) {
    while ((int64_t{1} << (shift_ - 31)) < d) ++shift_;
    factor_ =
        static_cast<uint32_t>(((uint64_t{1} << shift_) + static_cast<uint64_t>(d) - 1) / static_cast<uint64_t>(d));
  }

  __device__ int quotient(int n) const {
    return static_cast<int>((uint64_t{static_cast<uint32_t>(n)} * factor_) >> shift_);
  }
  __device__ int remainder(int n, int quotient) const { return n - quotient * divisor_; }

 private:
  int divisor_ = 1;
  uint32_t factor_ = uint32_t{1} << 31;
  int shift_ = 31;
};

}  // namespace bnn::cuda
