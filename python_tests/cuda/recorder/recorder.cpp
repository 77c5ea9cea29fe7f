// C names for the entry points of csrc/cuda, and the listener that hears of their launches.

#include <dlfcn.h>

#include "bnn/binary_conv2d.h"
#include "bnn/binary_linear.h"
#include "bnn/bitpack.h"
#include "bnn/gated_add.h"
#include "bnn/multires_pool2d.h"
#include "bnn/sign_ste.h"
#include "cuda/emulator/cuda_emu.h"

using namespace bnn;
using cuda::Status;
using cuda::Stream;

namespace {

// kernel: offset of its code in this library, as in the symbol table
using Listener = void (*)(size_t kernel, const dim3* grid, const dim3* block, size_t shared, const emu::Argument*, int);
Listener listener = nullptr;

struct PoolLevel {
  int64_t h, w;
  void* data;
};

MultiresPool2d pool(void* x, int dtype, int64_t planes, int64_t H, int64_t W, int64_t E, const PoolLevel* levels,
                    int count) {
  MultiresPool2d p;
  p.planes = planes, p.H = H, p.W = W, p.E = E;
  p.x = {x, static_cast<DType>(dtype)};
  p.grad_x = {x, static_cast<DType>(dtype)};
  for (int l = 0; l < count; ++l) {
    p.levels.push_back({levels[l].h, levels[l].w, {levels[l].data, static_cast<DType>(dtype)}, {}, {}});
  }
  return p;
}

BinaryConv2d conv(const ConvGeometry& geometry, const uint64_t* x, const uint64_t* weight, const Epilogue& epilogue) {
  BinaryConv2d p;
  p.geometry = geometry;
  p.x = x;
  p.weight = weight;
  p.epilogue = epilogue;
  return p;
}

}  // namespace

void emu::tell(const void* kernel, dim3 grid, dim3 block, size_t shared, const Argument* arguments, int count) {
  Dl_info library;
  dladdr(kernel, &library);
  const size_t offset = static_cast<size_t>(static_cast<const char*>(kernel) - static_cast<char*>(library.dli_fbase));
  listener(offset, &grid, &block, shared, arguments, count);
}

extern "C" {

void listen(Listener l) { listener = l; }

Status bitpack(const Bitpack& p, int64_t rows, const Stream& s) { return cuda::bitpack(p, rows, s); }
Status bitunpack(const Bitunpack& p, int64_t rows, const Stream& s) { return cuda::bitunpack(p, rows, s); }
Status sign_ste(const SignSte& p, int64_t rows, const Stream& s) { return cuda::sign_ste(p, rows, s); }
Status sign_ste_backward(const SignSte& p, int64_t rows, const Stream& s) {
  return cuda::sign_ste_backward(p, rows, s);
}
Status ste_residue(const SignSte& p, int64_t rows, const Stream& s) { return cuda::ste_residue(p, rows, s); }
Status ste_residue_backward(const SignSte& p, int64_t rows, const Stream& s) {
  return cuda::ste_residue_backward(p, rows, s);
}
Status mean_abs(const MeanAbs& p, int64_t rows, const Stream& s) { return cuda::mean_abs(p, rows, s); }

Status gated_add(const GatedAdd& p, int64_t rows, const Stream& s) { return cuda::gated_add(p, rows, s); }

Status binary_linear(const BinaryLinear& p, const Epilogue& e, const Stream& s) { return cuda::binary_linear(p, e, s); }

int64_t binary_conv2d_workspace(const ConvGeometry& g, const Epilogue& e, const Stream& s) {
  return cuda::binary_conv2d_workspace(conv(g, nullptr, nullptr, e), s);
}
const char* binary_conv2d_route(const ConvGeometry& g, const Epilogue& e, const Stream& s) {
  return cuda::binary_conv2d_route(conv(g, nullptr, nullptr, e), s);
}
Status binary_conv2d(const ConvGeometry& g, const uint64_t* x, const uint64_t* weight, const Epilogue& e,
                     void* workspace, const Stream& s) {
  return cuda::binary_conv2d(conv(g, x, weight, e), workspace, s);
}

Status multires_pool2d(void* x, int dtype, int64_t planes, int64_t H, int64_t W, int64_t E, const PoolLevel* levels,
                       int count, const Stream& s) {
  return cuda::multires_pool2d(pool(x, dtype, planes, H, W, E, levels, count), s);
}
Status multires_pool2d_backward(void* x, int dtype, int64_t planes, int64_t H, int64_t W, int64_t E,
                                const PoolLevel* levels, int count, const Stream& s) {
  return cuda::multires_pool2d_backward(pool(x, dtype, planes, H, W, E, levels, count), s);
}

}  // extern "C"
