#include "cuda/emulator/emulator.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <numeric>
#include <span>
#include <string_view>

#include "cuda/emulator/collectives.h"

namespace emu {

Block* block = nullptr;
Thread* self = nullptr;

namespace {

constexpr std::byte kRubbish{0xcd};
constexpr size_t kBeyond = 128;  // poisoned bytes after dynamic shared memory

enum class Order { kForward, kReverse, kRandom };

struct Options {
  int capability = 80;
  Order order = Order::kForward;
  unsigned seed = 0;
} options;

std::vector<std::span<std::byte>> static_shared;

std::string text(uint3 v) { return std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z); }

uint3 position(size_t i, dim3 extent) {
  return {static_cast<unsigned>(i % extent.x), static_cast<unsigned>(i / extent.x % extent.y),
          static_cast<unsigned>(i / extent.x / extent.y)};
}

std::vector<size_t> turns(size_t n) {
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  if (options.order == Order::kReverse) std::reverse(order.begin(), order.end());
  return order;
}

void shuffle_turns(std::vector<size_t>& order) {
  if (options.order == Order::kRandom) std::shuffle(order.begin(), order.end(), block->random);
}

// `what`, the block, and where its threads wait
std::string report(const std::string& what) {
  std::string message = "emulated CUDA: " + what + " (block " + text(block->index);
  if (self) message += ", thread " + text(self->index);
  message += ")";
  int shown = 0;
  for (const Thread& t : block->threads) {
    if (t.state != State::kBarrier && t.state != State::kCollective) continue;
    if (++shown > kLanes) return message + "\n  ...";
    message += "\n  thread " + text(t.index) + " waits at " + t.site.file_name() + ":" + std::to_string(t.site.line());
  }
  return message;
}

bool copies_at_once() {
  const Hidden hidden;
  return options.order == Order::kReverse || (options.order == Order::kRandom && block->random() % 2);
}

// Thrown through the kernel in every CUDA thread of a block that has failed
struct Cancelled {};

void wait(State state, std::source_location at) {
  self->state = state;
  self->site = at;
  self->fiber.yield();
  if (!block->error.empty()) throw Cancelled();
}

void run_kernel() {
  if (!block->error.empty()) return;
  try {
    (*block->kernel)();
    const Hidden hidden;
    if (!self->copies.empty()) fail("thread returned while asynchronous copies were under way");
  } catch (const Cancelled&) {
  }
}

EMU_UNSANITIZED void run_thread() {
  Fiber::begin();
  acquire(&block->start_tag);
  run_kernel();
  release(&block->end_tag);
  self->state = State::kReturned;
  self->fiber.yield(true);
}

void resume(Thread& thread) {
  self = &thread;
  thread.fiber.resume();
  self = nullptr;
}

// All threads of the block wait or have returned: opens the barrier. False when all have returned.
bool open_barrier(Block& b) {
  const Thread* first = nullptr;
  const char* wrong = nullptr;
  bool returned = false;
  for (const Thread& t : b.threads) {
    if (t.state == State::kReturned) returned = true;
    if (t.state == State::kCollective) wrong = "a warp collective waits for lanes that never arrive";
    if (t.state != State::kBarrier) continue;
    if (!first) first = &t;
    if (t.site.line() != first->site.line() || t.site.column() != first->site.column() ||
        std::strcmp(t.site.file_name(), first->site.file_name())) {
      wrong = "threads of a block wait at different __syncthreads";
    }
  }
  if (first && returned && !wrong) wrong = "__syncthreads after some threads of the block returned";
  if (wrong) b.error = report(wrong);
  if (!first || wrong) return false;
  for (Thread& t : b.threads) t.state = State::kReady;
  return true;
}

void run_block(Block& b) {
  const size_t n = b.threads.size();
  char* stack = stacks(n);
  for (size_t i = 0; i < n; ++i) {
    Thread& t = b.threads[i];
    t.state = State::kReady;
    t.fiber.start(stack + i * kStackBytes, run_thread);
  }
  release(&b.start_tag);
  std::vector<size_t> order = turns(n);
  for (bool more = true; more && b.error.empty();) {
    more = false;
    shuffle_turns(order);
    for (size_t i : order) {
      if (b.threads[i].state != State::kReady) continue;
      more = true;
      resume(b.threads[i]);
    }
    if (!more && b.error.empty()) more = open_barrier(b);
  }
  for (Thread& t : b.threads) {
    if (t.state != State::kReturned) resume(t);  // to be cancelled
  }
  acquire(&b.end_tag);
  if (!b.error.empty()) throw Error(b.error);
}

// Bytes that a block may have, opted in
size_t shared_limit(int capability) {
  if (capability < 80) return 64 << 10;
  if (capability == 80 || capability == 87) return 163 << 10;
  if (capability >= 90 && capability < 120) return 227 << 10;
  return 99 << 10;
}

void check_launch(dim3 grid, dim3 dim, size_t shared_bytes) {
  const size_t threads = size_t{dim.x} * dim.y * dim.z;
  if (threads < 1 || threads > 1024 || dim.z > 64) throw Error("emulated CUDA: launch with a bad block size");
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    throw Error("emulated CUDA: launch with a bad grid size");
  }
  if (shared_bytes > shared_limit(options.capability)) {
    throw Error("emulated CUDA: launch with more shared memory than the chip has");
  }
}

// Dynamic shared memory: exactly as many bytes as asked for
class SharedMemory {
 public:
  explicit SharedMemory(size_t bytes)
      : bytes_(bytes),
        at_(static_cast<std::byte*>(std::aligned_alloc(128, (bytes + 2 * kBeyond - 1) / kBeyond * kBeyond))) {
    if (!at_) throw std::bad_alloc();
    poison(at_ + bytes_, kBeyond);
  }
  ~SharedMemory() {
    unpoison(at_ + bytes_, kBeyond);
    std::free(at_);
  }
  SharedMemory(const SharedMemory&) = delete;
  std::byte* fill() {
    std::fill_n(at_, bytes_, kRubbish);
    return at_;
  }

 private:
  size_t bytes_;
  std::byte* at_;
};

}  // namespace

void configure(int capability, const std::string& order, unsigned seed) {
  constexpr std::string_view kNames[] = {"forward", "reverse", "random"};
  const auto* name = std::find(std::begin(kNames), std::end(kNames), order);
  if (name == std::end(kNames)) throw std::invalid_argument("order must be forward, reverse or random, got " + order);
  options = {capability, static_cast<Order>(name - kNames), seed};
}

int capability() { return options.capability; }

void fail(const std::string& what) {
  const Hidden hidden;
  if (block->error.empty()) block->error = report(what);
  throw Cancelled();
}

SharedVariable::SharedVariable(void* at, size_t bytes) {
  const Hidden hidden;
  const std::span<std::byte> variable(static_cast<std::byte*>(at), bytes);
  std::fill(variable.begin(), variable.end(), kRubbish);
  static_shared.push_back(variable);
}

void barrier(std::source_location at) {
  const Hidden hidden;
  char* tag = &block->barrier_tags[self->barriers++ % 2];
  release(tag);
  wait(State::kBarrier, at);
  acquire(tag);
}

void copy_async(void* shared, const void* global, size_t bytes) {
  if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % bytes) {
    fail("asynchronous copy that isn't aligned to its size");
  }
  self->copies.issue(shared, global, bytes, copies_at_once());
}

Meeting& meet(uint32_t mask, Collective kind, const void* value, size_t bytes, std::source_location at) {
  Warp& warp = *self->warp;
  const uint32_t me = 1u << self->lane;
  if (!(mask & me)) fail("a lane calls a warp collective whose mask leaves it out");
  mask &= warp.members;
  Meeting* meeting = nullptr;
  Meeting* unused = nullptr;
  for (Meeting& m : warp.meetings) {
    if (m.inside == 0) {
      unused = &m;
    } else if (m.arrived != m.mask && (m.mask & mask)) {
      if (m.mask != mask || m.kind != kind) fail("lanes of a warp meet in different collectives");
      meeting = &m;
    }
  }
  if (!meeting) {
    meeting = unused ? unused : &warp.meetings.emplace_back();
    meeting->mask = mask;
    meeting->kind = kind;
    meeting->arrived = 0;
  }
  meeting->arrived |= me;
  meeting->inside |= me;
  std::memcpy(meeting->given[self->lane], value, bytes);
  if (kind == Collective::kSync) release(meeting);
  if (meeting->arrived != mask) {
    wait(State::kCollective, at);
  } else {
    Thread* lanes = self - self->lane;
    for (int lane = 0; lane < kLanes; ++lane) {
      if (mask >> lane & 1) lanes[lane].state = State::kReady;
    }
  }
  if (kind == Collective::kSync) acquire(meeting);
  return *meeting;
}

void leave(Meeting& meeting) { meeting.inside &= ~(1u << self->lane); }

void run_grid(dim3 grid, dim3 dim, size_t shared_bytes, const std::function<void()>& kernel) {
  static std::mutex turn;
  const std::lock_guard<std::mutex> lock(turn);
  const Hidden hidden;
  check_launch(grid, dim, shared_bytes);
  SharedMemory shared(shared_bytes);
  Block b;
  b.grid = grid;
  b.dim = dim;
  b.kernel = &kernel;
  b.random.seed(options.seed);
  const size_t n = size_t{dim.x} * dim.y * dim.z;
  b.warps.resize((n + kLanes - 1) / kLanes);
  b.threads.resize(n);
  for (size_t i = 0; i < n; ++i) {
    Thread& t = b.threads[i];
    t.index = position(i, dim);
    t.lane = static_cast<int>(i % kLanes);
    t.warp = &b.warps[i / kLanes];
    t.warp->members |= 1u << t.lane;
  }
  block = &b;
  std::vector<size_t> order = turns(size_t{grid.x} * grid.y * grid.z);
  shuffle_turns(order);
  for (size_t i : order) {
    b.index = position(i, grid);
    b.dynamic = shared.fill();
    for (std::span<std::byte> variable : static_shared) std::fill(variable.begin(), variable.end(), kRubbish);
    run_block(b);
  }
}

}  // namespace emu
