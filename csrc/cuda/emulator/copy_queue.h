#pragma once

#include <cstring>
#include <vector>

namespace emu {

// The asynchronous copies (cp.async) of one thread. The hardware may perform a copy any time between its issue and the
// wait for its group: here that is the first or the last moment.
class CopyQueue {
 public:
  void issue(void* to, const void* from, size_t bytes, bool at_once) {
    if (at_once) std::memcpy(to, from, bytes);
    copies_.push_back({to, from, bytes, group_, at_once});
  }

  void commit() { ++group_; }

  // Until at most `pending` of the committed groups are under way
  void wait(int pending) {
    size_t done = 0;
    for (; done < copies_.size() && copies_[done].group < group_ - pending; ++done) {
      const Copy& c = copies_[done];
      if (!c.performed) std::memcpy(c.to, c.from, c.bytes);
    }
    copies_.erase(copies_.begin(), copies_.begin() + static_cast<long>(done));
  }

  bool empty() const { return copies_.empty(); }

 private:
  struct Copy {
    void* to;
    const void* from;
    size_t bytes;
    int group;
    bool performed;
  };
  std::vector<Copy> copies_;
  int group_ = 0;
};

}  // namespace emu
