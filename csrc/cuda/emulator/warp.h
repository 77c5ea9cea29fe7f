#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>

namespace emu {

constexpr int kLanes = 32;
constexpr size_t kLaneBytes = 32;

enum class Collective { kSync, kVote, kShuffle, kMmaB1And, kMmaB1Xor, kMmaS8, kLoadMatrices };

// One execution of a warp collective by the lanes of `mask`
struct Meeting {
  uint32_t mask = 0;
  uint32_t arrived = 0;
  uint32_t inside = 0;  // arrived and not yet left
  Collective kind{};
  alignas(8) std::byte given[kLanes][kLaneBytes];
};

struct Warp {
  uint32_t members = 0;
  std::deque<Meeting> meetings;
};

}  // namespace emu
