#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <source_location>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/emulator/copy_queue.h"
#include "cuda/emulator/fiber.h"
#include "cuda/emulator/sanitizer.h"
#include "cuda/emulator/types.h"
#include "cuda/emulator/warp.h"

// Runs CUDA kernels, compiled as ordinary C++, on the CPU: every CUDA thread of a block is a fiber, a warp is 32 fibers
// in a row, blocks run one after another. Launches of several host threads take turns.

namespace emu {

// What a kernel does that no GPU defines; thrown out of the launch.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The chip to act as (10 * major + minor) and the order in which blocks, and the threads of a block, get their turn:
// "forward", "reverse" or "random". Asynchronous copies happen at the wait (forward), at once (reverse), or either
// (random).
void configure(int capability, const std::string& order, unsigned seed);
int capability();

enum class State { kReady, kBarrier, kCollective, kReturned };

struct Thread {
  uint3 index{};
  int lane = 0;
  Warp* warp = nullptr;
  State state = State::kReady;
  std::source_location site;  // of the barrier or collective it waits at
  CopyQueue copies;
  unsigned barriers = 0;  // passed
  Fiber fiber;
};

struct Block {
  dim3 grid, dim;
  uint3 index{};
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::byte* dynamic = nullptr;  // shared memory
  const std::function<void()>* kernel = nullptr;
  std::mt19937 random;
  std::string error;
  // One tag per barrier would not do: a thread that ran ahead would have released the next barrier on it.
  char barrier_tags[2]{}, start_tag = 0, end_tag = 0;
};

extern Block* block;  // that runs now
extern Thread* self;  // that runs now

// A variable in static shared memory, filled with rubbish when the first thread comes to it and before each block
// after that
struct SharedVariable {
  SharedVariable(void* at, size_t bytes);
};

void barrier(std::source_location at);
// Called by a CUDA thread: ends the launch.
[[noreturn]] void fail(const std::string& what);

// `bytes` (4, 8 or 16) from global to shared memory
void copy_async(void* shared, const void* global, size_t bytes);

void run_grid(dim3 grid, dim3 dim, size_t shared_bytes, const std::function<void()>& kernel);

template <class... P>
void launch(dim3 grid, dim3 dim, size_t shared_bytes, void (*kernel)(P...), std::type_identity_t<P>... arguments) {
  run_grid(grid, dim, shared_bytes, [&] { kernel(arguments...); });
}

}  // namespace emu
