#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "bnn/cuda.h"
#include "cpu/isa.h"

// Importing this module registers the kernels with the dispatcher; its functions only tell and choose what runs.

namespace {

std::map<std::string, std::string> build_info() {
#if defined(__clang__)
  const std::string compiler = "clang " __clang_version__;
#else
  const std::string compiler = "gcc " __VERSION__;
#endif
#if defined(BNN_CUDA)
  const std::string cuda = BNN_CUDA;
#else
  const std::string cuda = "no";
#endif
  return {{"version", BNN_VERSION}, {"compiler", compiler}, {"cuda", cuda}, {"torch_target", "2.10"}};
}

std::vector<std::string> isa_available() {
  std::vector<std::string> names;
  for (bnn::cpu::Isa isa : bnn::cpu::isa_available()) names.emplace_back(bnn::cpu::isa_name(isa));
  return names;
}

// Names, compute capabilities, and whether the kernels are compiled for them
std::vector<std::tuple<std::string, std::string, bool>> cuda_devices() {
  std::vector<std::tuple<std::string, std::string, bool>> devices;
#if defined(BNN_CUDA)
  const auto check = [](bnn::cuda::Status status) {
    if (status != 0) throw std::runtime_error(bnn::cuda::status_text(status));
  };
  int count = 0;
  check(bnn::cuda::device_count(count));
  for (int i = 0; i < count; ++i) {
    const bnn::cuda::Device* device = nullptr;
    check(bnn::cuda::describe_device(i, device));
    const int capability = device->capability;
    devices.emplace_back(device->name, std::to_string(capability / 10) + "." + std::to_string(capability % 10),
                         device->has_code && capability >= bnn::cuda::kLeastCapability);
  }
#endif
  return devices;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def("build_info", &build_info);
  m.def("cuda_devices", &cuda_devices, "(name, compute capability, whether the kernels run on it) of each.");
  m.def("isa_available", &isa_available, "Names from lowest to highest.");
  m.def("isa_current", [] { return std::string(bnn::cpu::isa_name(bnn::cpu::isa_current())); });
  m.def("isa_use", [](const std::string& name) { bnn::cpu::isa_use(name); });
}
