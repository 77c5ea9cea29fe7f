#pragma once

#include <cstddef>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

#define EMU_UNSANITIZED __attribute__((noinline, no_sanitize("thread"), no_sanitize("address")))

namespace emu {

#ifdef __SANITIZE_THREAD__
// While it lives, the emulator's own accesses are no part of the kernel: the race detector doesn't see them.
struct Hidden {
  Hidden() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Hidden() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
};
// What went before release(tag) in one CUDA thread is seen by what comes after acquire(tag) in another.
inline void release(void* tag) { __tsan_release(tag); }
inline void acquire(void* tag) { __tsan_acquire(tag); }
#else
struct Hidden {
  ~Hidden() {}  // so that it is no unused variable
};
inline void release(void*) {}
inline void acquire(void*) {}
#endif

inline void poison([[maybe_unused]] void* at, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __asan_poison_memory_region(at, bytes);
#endif
}
inline void unpoison([[maybe_unused]] void* at, [[maybe_unused]] size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(at, bytes);
#endif
}

}  // namespace emu
