#pragma once

#include <immintrin.h>
#if defined(BNN_EMULATED_AMX)
#include "cpu/amx/emulator/unit.h"
#endif

namespace bnn::cpu::amx {

// What the intrinsics of tiles don't tell the compiler: they read and write memory.
inline void memory_barrier() { asm volatile("" ::: "memory"); }

}  // namespace bnn::cpu::amx
