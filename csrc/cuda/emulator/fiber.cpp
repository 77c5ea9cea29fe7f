#include "cuda/emulator/fiber.h"

#include <sys/mman.h>

#include <new>

#include "cuda/emulator/sanitizer.h"

#ifndef EMU_UCONTEXT
extern "C" void emu_switch(void** from, void** to);
asm(R"(
.text
.globl emu_switch
.hidden emu_switch
.type emu_switch,@function
emu_switch:
  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
  mov %rsp, (%rdi)
  mov (%rsi), %rsp
  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
  ret
.size emu_switch,.-emu_switch
)");
#endif

namespace emu {

Fiber::Context Fiber::host_context;
void* Fiber::host_tsan;
void* Fiber::host_asan;
const void* Fiber::host_stack;
size_t Fiber::host_stack_bytes;

Fiber::~Fiber() {
#ifdef __SANITIZE_THREAD__
  if (tsan_) __tsan_destroy_fiber(tsan_);
#endif
}

void Fiber::start(char* stack, void (*run)()) {
  stack_ = stack;
  unpoison(stack, kStackBytes);
#ifdef EMU_UCONTEXT
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  makecontext(&context_, run, 0);
#else
  void** top = reinterpret_cast<void**>(stack + kStackBytes);
  *--top = nullptr;  // where `run` would return to
  *--top = reinterpret_cast<void*>(run);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  context_ = top;
#endif
#ifdef __SANITIZE_THREAD__
  if (tsan_) __tsan_destroy_fiber(tsan_);
  tsan_ = __tsan_create_fiber(0);
#endif
}

EMU_UNSANITIZED void Fiber::exchange(Context& from, Context& to) {
#ifdef EMU_UCONTEXT
  swapcontext(&from, &to);
#else
  emu_switch(&from, &to);
#endif
}

EMU_UNSANITIZED void Fiber::resume() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&host_asan, stack_, kStackBytes);
#endif
#ifdef __SANITIZE_THREAD__
  host_tsan = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(tsan_, __tsan_switch_to_fiber_no_sync);
#endif
  exchange(host_context, context_);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(host_asan, nullptr, nullptr);
#endif
}

EMU_UNSANITIZED void Fiber::yield([[maybe_unused]] bool last) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(last ? nullptr : &asan_, host_stack, host_stack_bytes);
#endif
#ifdef __SANITIZE_THREAD__
  __tsan_switch_to_fiber(host_tsan, __tsan_switch_to_fiber_no_sync);
#endif
  exchange(context_, host_context);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(asan_, &host_stack, &host_stack_bytes);
#endif
}

EMU_UNSANITIZED void Fiber::begin() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &host_stack, &host_stack_bytes);
#endif
}

char* stacks(size_t count) {
  static char* held = nullptr;
  static size_t held_count = 0;
  if (count <= held_count) return held;
  if (held) munmap(held, held_count * kStackBytes);
  void* all =
      mmap(nullptr, count * kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  held = nullptr;
  held_count = 0;
  if (all == MAP_FAILED) throw std::bad_alloc();
  held = static_cast<char*>(all);
  held_count = count;
  for (size_t i = 0; i < count; ++i) mprotect(held + i * kStackBytes, 4096, PROT_NONE);
  return held;
}

}  // namespace emu
