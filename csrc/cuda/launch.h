#pragma once

#include <algorithm>
#include <cstdint>

#include "bnn/cuda.h"
#include "bnn/with_type.h"
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

inline bool aligned(const void* data, int64_t bytes) { return reinterpret_cast<uintptr_t>(data) % bytes == 0; }

}  // namespace bnn::cuda
