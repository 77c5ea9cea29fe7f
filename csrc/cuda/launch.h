#pragma once

#include <algorithm>
#include <cstdint>

#include "bnn/cuda.h"
#include "bnn/half.h"
#include "bnn/span.h"
#include "cuda/device.h"

// Host side of a launch.

namespace bnn::cuda {

// What the launch just made came to; also clears it, so that nobody else trips over it.
inline Status launch_status() {
#ifdef __CUDACC__
  return cudaGetLastError();
#else
  return 0;
#endif
}

// Blocks of a grid that strides over `work` blocks' worth: all of them, or enough for several waves of the device.
inline unsigned grid_size(int64_t work, const Stream& stream) {
  constexpr int64_t kPerMultiprocessor = 32;
  return static_cast<unsigned>(std::min(work, kPerMultiprocessor * stream.multiprocessors));
}

// Calls f with a value of the element type that t names (float types only).
template <class F>
Status with_type(DType t, F&& f) {
  switch (t) {
    case DType::f32:
      return f(float{});
    case DType::bf16:
      return f(Bf16{});
    default:
      return f(Half{});
  }
}

}  // namespace bnn::cuda
