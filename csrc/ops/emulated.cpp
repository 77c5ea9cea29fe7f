#if defined(BNN_EMULATED)

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <string>

#include "cuda/emulator/emulator.h"

// The one op that bnn_emulated has beyond those of bnn.

namespace bnn::ops {
namespace {

void configure(int64_t capability, std::string order, int64_t seed) {
  emu::configure(static_cast<int>(capability), order, static_cast<unsigned>(seed));
}

}  // namespace
}  // namespace bnn::ops

STABLE_TORCH_LIBRARY_FRAGMENT(bnn_emulated, m) { m.def("configure(int capability, str order, int seed) -> ()"); }

STABLE_TORCH_LIBRARY_IMPL(bnn_emulated, CompositeExplicitAutograd, m) {
  m.impl("configure", TORCH_BOX(&bnn::ops::configure));
}

#endif
