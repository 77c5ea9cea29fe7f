#include "ops/device.h"

#include <dlfcn.h>

#include <stdexcept>

#include "ops/check.h"

#if defined(BNN_CUDA_KERNELS)

namespace bnn::ops {
namespace {

#if defined(BNN_EMULATED)

void* current_stream(int) { return nullptr; }

#else

// The library of torch's CUDA build is looked for among those that are loaded, so that the same file loads beside a
// CPU build of torch.
void* current_stream(int index) {
  using Function = int (*)(int32_t, void**);
  static const auto function = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library == nullptr ? nullptr
                              : reinterpret_cast<Function>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
  }();
  void* stream = nullptr;
  if (function == nullptr || function(index, &stream) != 0) {
    throw std::runtime_error("bnn: this torch gives no current CUDA stream; a CUDA build of torch 2.10 or later does");
  }
  return stream;
}

#endif

std::string capability_text(int capability) { return text(capability / 10, ".", capability % 10); }

std::string device_text(const cuda::Device& device) {
  return text(capability_text(device.capability), " (", device.name, ")");
}

}  // namespace

int cuda_index([[maybe_unused]] const Tensor& x) {
#if defined(BNN_EMULATED)
  return 0;
#else
  return x.get_device_index();
#endif
}

cuda::Stream stream_of(const char* op, const Tensor& x) {
  const int index = cuda_index(x);
  const cuda::Device* device = nullptr;
  check_status(op, cuda::describe_device(index, device));
  BNN_CHECK(device->capability >= cuda::kLeastCapability, op, "x",
            text("on a GPU of compute capability ", capability_text(cuda::kLeastCapability), " or later"),
            device_text(*device));
  BNN_CHECK(device->has_code, op, "x", "on a GPU that this build has kernels for (" BNN_CUDA_ARCHITECTURES ")",
            device_text(*device));
  return {current_stream(index), device->capability, device->multiprocessors};
}

void check_status(const char* op, cuda::Status status) {
  if (status != 0) throw std::runtime_error(text("bnn::", op, ": CUDA: ", cuda::status_text(status)));
}

}  // namespace bnn::ops

#endif
