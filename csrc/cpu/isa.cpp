#include "cpu/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace bnn::cpu {
namespace {

constexpr std::string_view kNames[kIsaCount] = {"scalar", "neon", "avx2", "avx512", "amx"};
constexpr int kUnset = -1;
std::atomic<int> g_current{kUnset};

std::vector<Isa> probe() {
  std::vector<Isa> found{Isa::scalar};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("popcnt")) {
    found.push_back(Isa::avx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vpopcntdq")) {
      found.push_back(Isa::avx512);
    }
  }
#endif
  return found;
}

Isa find(std::string_view name) {
  std::string names;
  for (Isa isa : isa_available()) {
    if (isa_name(isa) == name) return isa;
    names += (names.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  throw std::invalid_argument("bnn: instruction set '" + std::string(name) +
                              "' is not available here; available: " + names);
}

}  // namespace

std::string_view isa_name(Isa isa) { return kNames[static_cast<int>(isa)]; }

const std::vector<Isa>& isa_available() {
  static const std::vector<Isa> found = probe();
  return found;
}

Isa isa_current() {
  const int current = g_current.load(std::memory_order_relaxed);
  if (current != kUnset) return static_cast<Isa>(current);
  const char* wanted = std::getenv("BNN_ISA");
  const bool chosen = wanted != nullptr && *wanted != '\0' && std::string_view(wanted) != "reference";
  const Isa isa = chosen ? find(wanted) : isa_available().back();
  int expected = kUnset;
  g_current.compare_exchange_strong(expected, static_cast<int>(isa));
  return static_cast<Isa>(g_current.load());
}

void isa_use(std::string_view name) { g_current.store(static_cast<int>(find(name))); }

}  // namespace bnn::cpu
