#pragma once

#include <string_view>
#include <vector>

namespace bnn::cpu {

// From lowest to highest; a higher ISA may use every microkernel of a lower one of the same architecture. amx is
// AVX-512 and the matrix unit, where this process may use it; it is never asked for where BNN_ISA names another one.
enum class Isa { scalar, neon, avx2, avx512, amx };
inline constexpr int kIsaCount = 5;

std::string_view isa_name(Isa isa);

// What this machine can run and this build contains, lowest first.
const std::vector<Isa>& isa_available();

// The highest available one, unless BNN_ISA or isa_use says otherwise. BNN_ISA is read at the first call; a name that
// is not available throws std::invalid_argument. BNN_ISA=reference is left to the Python layer.
Isa isa_current();

void isa_use(std::string_view name);

}  // namespace bnn::cpu
