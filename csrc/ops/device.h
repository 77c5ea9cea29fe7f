#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <limits>
#include <string>

#include "bnn/cuda.h"

// Where an op runs. The glue is built in one of three ways:
//   alone            it serves CPU tensors;
//   BNN_CUDA         it serves CPU tensors and CUDA tensors;
//   BNN_EMULATED     as a library of its own, ops bnn_emulated::X, it takes CPU tensors the way of CUDA tensors, to the
//                    same kernels, compiled for the CPU.

#if defined(BNN_CUDA) || defined(BNN_EMULATED)
#define BNN_CUDA_KERNELS 1
#endif

namespace bnn::ops {

using torch::stable::Tensor;

// Whether CUDA kernels serve ops on x.
inline bool on_cuda([[maybe_unused]] const Tensor& x) {
#if defined(BNN_EMULATED)
  return true;
#elif defined(BNN_CUDA)
  return x.is_cuda();
#else
  return false;
#endif
}

// Rows of a CUDA problem: one index of 32 bits counts them.
inline constexpr int64_t kMaxCudaRows = std::numeric_limits<int32_t>::max();

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cpu() == b.is_cpu() && a.is_cuda() == b.is_cuda() && a.get_device_index() == b.get_device_index();
}

inline std::string device_text(const Tensor& t) {
  if (t.is_cpu()) return "cpu";
  return (t.is_cuda() ? "cuda:" : "device ") + std::to_string(t.get_device_index());
}

#if defined(BNN_CUDA_KERNELS)
// Index of the device that x is on, as CUDA counts.
int cuda_index(const Tensor& x);

// The current stream of x's device; refuses a device that the kernels do not run on.
cuda::Stream stream_of(const char* op, const Tensor& x);

void check_status(const char* op, cuda::Status status);
#endif

}  // namespace bnn::ops

// BNN_REGISTER(m) { m.impl(...); } registers kernels for every device that this build serves.
#if defined(BNN_EMULATED)
#define BNN_REGISTER(m) STABLE_TORCH_LIBRARY_IMPL(bnn_emulated, CPU, m)
#elif defined(BNN_CUDA)
#define BNN_REGISTER(m)                                                    \
  static void bnn_register(torch::stable::detail::StableLibrary&);         \
  STABLE_TORCH_LIBRARY_IMPL(bnn, CPU, library) { bnn_register(library); }  \
  STABLE_TORCH_LIBRARY_IMPL(bnn, CUDA, library) { bnn_register(library); } \
  static void bnn_register(torch::stable::detail::StableLibrary& m)
#else
#define BNN_REGISTER(m) STABLE_TORCH_LIBRARY_IMPL(bnn, CPU, m)
#endif
