#pragma once

#include <cstddef>

#ifndef __x86_64__
#define EMU_UCONTEXT
#endif
#ifdef EMU_UCONTEXT
#include <ucontext.h>
#endif

namespace emu {

constexpr size_t kStackBytes = 128 << 10;

// A function with a stack of its own. The host resumes it, it runs until it yields, and so in turn.
class Fiber {
 public:
  ~Fiber();
  // `run` begins at the first resume, must not return, and yields for the last time with `last`. The lowest page of
  // `stack` is left alone.
  void start(char* stack, void (*run)());
  void resume();
  void yield(bool last = false);
  static void begin();  // first thing in `run`

 private:
#ifdef EMU_UCONTEXT
  using Context = ucontext_t;
#else
  using Context = void*;  // stack pointer; the saved registers lie there
#endif
  static void exchange(Context& from, Context& to);

  Context context_;
  char* stack_ = nullptr;
  void* asan_ = nullptr;  // the fake stack
  void* tsan_ = nullptr;

  static Context host_context;
  static void* host_tsan;
  static void* host_asan;
  static const void* host_stack;
  static size_t host_stack_bytes;
};

// Makes room for `count` stacks with a guard page below each. They are kept for later launches.
char* stacks(size_t count);

}  // namespace emu
