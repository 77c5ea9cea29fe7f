#include "cpu/isa.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <string>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <syscall.h>
#include <unistd.h>
#endif

namespace bnn::cpu {
namespace {

constexpr std::string_view kNames[kIsaCount] = {"scalar", "neon", "avx2", "avx512", "amx"};
constexpr int kUnset = -1;
std::atomic<int> g_current{kUnset};

// The instruction set that BNN_ISA names, if it names one.
std::string_view wanted_isa() {
  const char* wanted = std::getenv("BNN_ISA");
  return wanted == nullptr || std::string_view(wanted) == "reference" ? "" : wanted;
}

// BNN_ISA of another instruction set leaves the question for the matrix unit out.
[[maybe_unused]] bool another_wanted() {
  const std::string_view wanted = wanted_isa();
  return wanted != "amx" && std::find(std::begin(kNames), std::end(kNames), wanted) != std::end(kNames);
}

#if defined(BNN_EMULATED_AMX)
bool matrix_unit_granted() { return !another_wanted(); }
#elif defined(__x86_64__) && defined(__linux__)
// Linux grants the state of the matrix unit (8 KiB a thread) to a process that asks, and refuses where it has not
// switched it on (XCR0); a process that uses the unit without is killed.
bool matrix_unit_granted() {
  constexpr int kGet = 0x1022, kRequest = 0x1023, kTileData = 18;  // arch_prctl, see asm/prctl.h
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  const bool has_unit = (d >> 24 & 1) != 0 && (d >> 25 & 1) != 0;  // amx-tile, amx-int8
  if (!has_unit || another_wanted()) return false;
  unsigned long granted = 0;
  if (syscall(SYS_arch_prctl, kRequest, kTileData) != 0) return false;
  return syscall(SYS_arch_prctl, kGet, &granted) == 0 && (granted >> kTileData & 1) != 0;
}
#else
bool matrix_unit_granted() { return false; }
#endif

std::vector<Isa> probe() {
  std::vector<Isa> found{Isa::scalar};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("popcnt")) {
    found.push_back(Isa::avx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vpopcntdq") &&
        __builtin_cpu_supports("avx512vnni")) {
      found.push_back(Isa::avx512);
      if (matrix_unit_granted()) found.push_back(Isa::amx);
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
  const Isa isa = wanted_isa().empty() ? isa_available().back() : find(wanted_isa());
  int expected = kUnset;
  g_current.compare_exchange_strong(expected, static_cast<int>(isa));
  return static_cast<Isa>(g_current.load());
}

void isa_use(std::string_view name) { g_current.store(static_cast<int>(find(name))); }

}  // namespace bnn::cpu
