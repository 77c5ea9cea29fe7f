#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "cpu/isa.h"

// Importing this module registers the kernels with the dispatcher; its functions only tell and choose what runs.

namespace {

std::map<std::string, std::string> build_info() {
#if defined(__clang__)
  const std::string compiler = "clang " __clang_version__;
#else
  const std::string compiler = "gcc " __VERSION__;
#endif
  return {{"version", BNN_VERSION}, {"compiler", compiler}, {"cuda", "no"}, {"torch_target", "2.10"}};
}

std::vector<std::string> isa_available() {
  std::vector<std::string> names;
  for (bnn::cpu::Isa isa : bnn::cpu::isa_available()) names.emplace_back(bnn::cpu::isa_name(isa));
  return names;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def("build_info", &build_info);
  m.def("isa_available", &isa_available, "Names from lowest to highest.");
  m.def("isa_current", [] { return std::string(bnn::cpu::isa_name(bnn::cpu::isa_current())); });
  m.def("isa_use", [](const std::string& name) { bnn::cpu::isa_use(name); });
}
