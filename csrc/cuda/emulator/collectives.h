#pragma once

#include <bit>
#include <cstring>
#include <type_traits>

#include "cuda/emulator/emulator.h"

namespace emu {

// Arrives at a collective, gives `value`, and returns when all lanes of the mask have come.
Meeting& meet(uint32_t mask, Collective kind, const void* value, size_t bytes, std::source_location at);
void leave(Meeting& meeting);

// What the lanes of a mask give each other. Only kSync orders memory.
template <class T>
class Exchange {
  static_assert(sizeof(T) <= kLaneBytes && std::is_trivially_copyable_v<T>);

 public:
  Exchange(uint32_t mask, Collective kind, const T& value, std::source_location at)
      : meeting_(meet(mask, kind, &value, sizeof(T), at)) {}
  ~Exchange() { leave(meeting_); }
  Exchange(const Exchange&) = delete;

  uint32_t mask() const { return meeting_.mask; }
  T operator[](int lane) const {
    T value;
    std::memcpy(&value, meeting_.given[lane], sizeof(T));
    return value;
  }

 private:
  Hidden hidden_;
  Meeting& meeting_;
};

inline void sync_warp(uint32_t mask, std::source_location at) { Exchange<bool>(mask, Collective::kSync, true, at); }

inline uint32_t ballot(uint32_t mask, bool predicate, std::source_location at) {
  const Exchange<bool> lanes(mask, Collective::kVote, predicate, at);
  uint32_t votes = 0;
  for (uint32_t left = lanes.mask(); left; left &= left - 1) {
    const int lane = std::countr_zero(left);
    votes |= uint32_t{lanes[lane]} << lane;
  }
  return votes;
}

// The value of lane `from`, or one's own where that lies outside the segment [first, last)
template <class T>
T shuffle(uint32_t mask, T value, int from, int first, int last, std::source_location at) {
  const Exchange<T> lanes(mask, Collective::kShuffle, value, at);
  if (from < first || from >= last) return value;
  if (!(lanes.mask() >> from & 1)) fail("shuffle reads a lane that its mask leaves out");
  return lanes[from];
}

}  // namespace emu
