#include "cpu/ukernels.h"

#include <array>

namespace bnn::cpu {
namespace {

std::array<Ukernels, kIsaCount> build_tables() {
  std::array<Ukernels, kIsaCount> tables{};
#define BNN_UKERNEL(isa, op) \
  for (int i = static_cast<int>(Isa::isa); i < kIsaCount; ++i) tables[i].op = &isa::op;
#include "cpu/ukernels.inc"
#undef BNN_UKERNEL
  return tables;
}

}  // namespace

const Ukernels& ukernels_of(Isa isa) {
  static const std::array<Ukernels, kIsaCount> tables = build_tables();
  return tables[static_cast<int>(isa)];
}

}  // namespace bnn::cpu
