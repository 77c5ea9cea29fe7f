#pragma once

#include <cstdint>
#include <type_traits>

#include "ops/device.h"
#include "ops/parallel.h"

// The last step of an op, once its arguments are checked and its outputs allocated.

namespace bnn::ops {

// cpu(), or cuda(stream) -> Status on x's device
template <class Cpu, class Cuda>
void run([[maybe_unused]] const char* op, [[maybe_unused]] const Tensor& x, [[maybe_unused]] const Cpu& cpu,
         [[maybe_unused]] const Cuda& cuda) {
#if defined(BNN_CUDA_KERNELS)
  if (on_cuda(x)) {
    const cuda::CurrentDevice here(cuda_index(x));
    return check_status(op, cuda(stream_of(op, x)));
  }
#endif
#if !defined(BNN_EMULATED)
  cpu();
#endif
}

// The two forms of a kernel that works on rows.
template <class P>
struct RowKernel {
  void (*cpu)(const P&, int64_t row_begin, int64_t row_end);
  cuda::Status (*cuda)(const P&, int64_t rows, const cuda::Stream&);
};

// Both forms of bnn::cpu::name and bnn::cuda::name, or the one that this build has.
#if defined(BNN_EMULATED)
#define BNN_KERNEL(name) {nullptr, cuda::name}
#elif defined(BNN_CUDA)
#define BNN_KERNEL(name) {cpu::name, cuda::name}
#else
#define BNN_KERNEL(name) {cpu::name, nullptr}
#endif

// work = steps per row
template <class P>
void run_rows(const char* op, const Tensor& x, std::type_identity_t<RowKernel<P>> kernel, const P& p, int64_t rows,
              int64_t work) {
  if (rows == 0 || work == 0) return;
  run(
      op, x, [&] { parallel(rows, work, [&](int64_t begin, int64_t end) { kernel.cpu(p, begin, end); }); },
      [&](const cuda::Stream& stream) { return kernel.cuda(p, rows, stream); });
}

}  // namespace bnn::ops
