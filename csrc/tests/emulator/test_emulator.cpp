// The emulator's own test: `test_emulator right` runs kernels without bugs in several orders, `test_emulator CASE
// ORDER` one kernel with a bug. Wrong values: exit code 1. An error of the emulator: exit code 2. Else a sanitizer
// speaks.

#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "bnn/cuda.h"
#include "kernels.h"

namespace bnn::cuda {
namespace {

using Ints = std::vector<int>;
const Stream kStream;
constexpr int kBlocks = 3;

std::mt19937 g_random(1);

Ints numbers(int n) {
  Ints out(static_cast<size_t>(n));
  for (int& v : out) v = static_cast<int>(g_random() % 2001) - 1000;
  return out;
}

template <class T>
int differences(const std::vector<T>& got, const std::vector<T>& want) {
  int n = 0;
  for (size_t i = 0; i < want.size(); ++i) n += got[i] != want[i];
  return n;
}

template <bool kRowTooMany>
int rows() {
  constexpr int kRows = 3, kColumns = 50;
  const Ints x = numbers(kRows * kColumns);
  Ints y(x.size()), want;
  for (int v : x) want.push_back(-v);
  LAUNCH(negate_rows<kRowTooMany>, kRows + 1, kThreads, 0, kStream, x.data(), y.data(), kRows, kColumns);
  return differences(y, want);
}

// Runs a kernel that turns `x` into `y`, block by block, y[i] = x[from(i)]. All blocks of `x` are alike: what a block
// leaves in shared memory would be right for the next one.
template <class From>
int permutes(void (*kernel)(const int*, int*), size_t shared, From from) {
  Ints x = numbers(kThreads);
  for (size_t i = 0; x.size() < kBlocks * kThreads; ++i) x.push_back(x[i]);
  Ints y(x.size()), want(x.size());
  for (size_t i = 0; i < x.size(); ++i) want[i] = x[i / kThreads * kThreads + from(i % kThreads)];
  LAUNCH(kernel, kBlocks, kThreads, shared, kStream, x.data(), y.data());
  return differences(y, want);
}

size_t reversed(size_t i) { return kThreads - 1 - i; }

template <bool kSharedTooSmall>
int dynamic_shared() {
  return permutes(reverse_dynamic<kSharedTooSmall>, (kThreads - kSharedTooSmall) * sizeof(int), reversed);
}

template <bool kOneBeyond>
int static_shared() {
  return permutes(reverse_static<kOneBeyond>, 0, reversed);
}

int no_barrier() { return permutes(reverse_static<false, false>, 0, reversed); }

template <bool kSync>
int warp_sync() {
  return permutes(swap_neighbours<kSync>, 0, [](size_t i) { return i ^ 1; });
}

template <bool kWait, bool kBarrierBeforeRefill>
int copies() {
  constexpr int kTiles = 5;
  const Ints x = numbers(kTiles * kThreads);
  Ints y(kThreads), want(kThreads);
  for (size_t i = 0; i < x.size(); ++i) want[i % kThreads] += x[i];
  LAUNCH((sum_tiles<kWait, kBarrierBeforeRefill>), 1, kThreads, 0, kStream, x.data(), y.data(), kTiles);
  return differences(y, want);
}

template <uint32_t kMask>
int half_vote() {
  const Ints x = numbers(kThreads);
  Ints y(kThreads), want;
  for (int v : x) want.push_back(v > 0);
  LAUNCH(vote_of_half<kMask>, 1, kThreads, 0, kStream, x.data(), y.data());
  return differences(y, want);
}

template <int kFrom>
int lane() {
  const Ints x = numbers(kThreads);
  Ints y(kThreads), want(kThreads);
  for (size_t i = 0; i < kThreads; ++i) want[i] = i % kWarp < 16 ? 0 : x[i / kWarp * kWarp + kFrom];
  LAUNCH(read_lane<kFrom>, 1, kThreads, 0, kStream, x.data(), y.data());
  return differences(y, want);
}

template <bool kReturnEarly>
int part() {
  constexpr int kPart = 40;
  const Ints x = numbers(kPart);
  Ints y(kPart);
  LAUNCH(reverse_part<kReturnEarly>, 1, kThreads, 0, kStream, x.data(), y.data(), kPart);
  return differences(y, Ints(x.rbegin(), x.rend()));
}

template <bool kTwoBarriers>
int first() {
  const Ints x = numbers(kThreads);
  Ints y(kThreads), want;
  for (int v : x) want.push_back(v + x[0]);
  LAUNCH(add_first<kTwoBarriers>, 1, kThreads, 0, kStream, x.data(), y.data());
  return differences(y, want);
}

struct Place {
  int row, column;
};

// Where element i of a lane stands in the matrices of mma.m16n8k256 (b1: kElements = 32 a register) and m16n8k32 (s8:
// 4), as the PTX ISA has it
template <int kElements>
struct Layout {
  static Place a(int lane, int i) {
    const bool upper = i < kElements || (2 * kElements <= i && i < 3 * kElements);
    const int column = lane % 4 * kElements + i % kElements;
    return {upper ? lane / 4 : lane / 4 + 8, i < 2 * kElements ? column : column + 4 * kElements};
  }
  static Place b(int lane, int i) {
    const int row = lane % 4 * kElements + i % kElements;
    return {i < kElements ? row : row + 4 * kElements, lane / 4};
  }
  static Place d(int lane, int i) { return {i < 2 ? lane / 4 : lane / 4 + 8, lane % 4 * 2 + i % 2}; }
};

using Matrix = std::vector<Ints>;

Matrix matrix(int rows, int columns, int low, int high) {
  Matrix m(static_cast<size_t>(rows), Ints(static_cast<size_t>(columns)));
  for (Ints& row : m) {
    for (int& v : row) v = low + static_cast<int>(g_random() % static_cast<unsigned>(high - low + 1));
  }
  return m;
}

// Registers of all lanes, `count` each, kElements elements in each
template <int kElements>
std::vector<uint32_t> registers_of(const Matrix& m, int count, Place (*place)(int, int)) {
  constexpr int kBits = 32 / kElements;
  constexpr uint32_t kField = (uint64_t{1} << kBits) - 1;
  std::vector<uint32_t> out(static_cast<size_t>(kWarp * count));
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int i = 0; i < count * kElements; ++i) {
      const Place at = place(lane, i);
      const uint32_t element = static_cast<uint32_t>(m[at.row][at.column]) & kField;
      out[count * lane + i / kElements] |= element << i % kElements * kBits;
    }
  }
  return out;
}

template <Mma kKind>
int mma_layout() {
  constexpr int kElements = kKind == Mma::kBytes ? 4 : 32, K = 8 * kElements;
  constexpr int kLow = kKind == Mma::kBytes ? -128 : 0, kHigh = kKind == Mma::kBytes ? 127 : 1;
  const Matrix a = matrix(16, K, kLow, kHigh), b = matrix(K, 8, kLow, kHigh), c = matrix(16, 8, -100, 100);
  const auto a_registers = registers_of<kElements>(a, 4, Layout<kElements>::a);
  const auto b_registers = registers_of<kElements>(b, 2, Layout<kElements>::b);
  Ints d, want;
  for (int i = 0; i < 4 * kWarp; ++i) {
    const Place at = Layout<kElements>::d(i / 4, i % 4);
    int sum = c[at.row][at.column];
    d.push_back(sum);
    for (int k = 0; k < K; ++k) {
      const int x = a[at.row][k], y = b[k][at.column];
      sum += kKind == Mma::kXor ? x ^ y : x * y;
    }
    want.push_back(sum);
  }
  LAUNCH(one_mma<kKind>, 1, kWarp, 0, kStream, a_registers.data(), b_registers.data(), d.data());
  return differences(d, want);
}

// Lane l's register i: word l % 4 of the row whose address lane 8 i + l / 4 gave
template <int kPitch, bool kSync = true>
int matrices() {
  const Ints numbered = numbers(kWarp * kPitch / 4);
  const std::vector<uint32_t> rows(numbered.begin(), numbered.end());
  std::vector<uint32_t> registers(kWarp * 4), want(kWarp * 4);
  Ints order(kWarp);
  for (int lane = 0; lane < kWarp; ++lane) order[static_cast<size_t>(lane)] = (5 * lane + 3) % kWarp;
  for (size_t lane = 0; lane < kWarp; ++lane) {
    for (size_t i = 0; i < 4; ++i) {
      want[4 * lane + i] = rows[static_cast<size_t>(order[8 * i + lane / 4]) * kPitch / 4 + lane % 4];
    }
  }
  LAUNCH(load_rows<kSync>, 1, kWarp, kWarp * kPitch, kStream, rows.data(), order.data(), registers.data(), kPitch);
  return differences(registers, want);
}

template <int kWidth>
int shuffles() {
  const Ints x = numbers(kThreads);
  Ints y(5 * kThreads), want(5 * kThreads);
  for (int i = 0; i < kThreads; ++i) {
    const int first = i / kWidth * kWidth, last = first + kWidth, warp = i / kWarp * kWarp;
    const auto at = [&](int j) { return x[static_cast<size_t>(j)]; };
    int odd = 0;
    for (int j = warp; j < warp + kWarp; ++j) odd += at(j) % 2 != 0;
    int* w = want.data() + 5 * i;
    w[0] = at(first + 3 % kWidth);
    w[1] = at(i - 3 >= first ? i - 3 : i);
    w[2] = at(i + 3 < last ? i + 3 : i);
    w[3] = at((i ^ 5) < last ? i ^ 5 : i);
    w[4] = 2 * (odd == kWarp) + (odd > 0);
  }
  LAUNCH(collectives, 1, kThreads, 0, kStream, x.data(), y.data(), kWidth);
  return differences(y, want);
}

int too_much_shared() { return permutes(reverse_dynamic<false>, 200 << 10, reversed); }

int old_chip() {
  emu::configure(75, "forward", 0);
  return mma_layout<Mma::kAnd>();
}

struct Case {
  const char* name;
  int (*wrong_values)();
};

constexpr Case kRight[] = {
    {"rows", rows<false>},
    {"dynamic_shared", dynamic_shared<false>},
    {"static_shared", static_shared<false>},
    {"warp_sync", warp_sync<true>},
    {"copies", copies<true, true>},
    {"half_vote", half_vote<0x0000ffff>},
    {"lane", lane<31>},
    {"part", part<false>},
    {"first", first<false>},
    {"mma_b1_and", mma_layout<Mma::kAnd>},
    {"mma_b1_xor", mma_layout<Mma::kXor>},
    {"mma_s8", mma_layout<Mma::kBytes>},
    {"load_matrices", matrices<48>},
    {"shuffles_8", shuffles<8>},
    {"shuffles_32", shuffles<32>},
};

constexpr Case kPlanted[] = {
    {"row_too_many", rows<true>},
    {"past_dynamic_shared", dynamic_shared<true>},
    {"past_static_shared", static_shared<true>},
    {"no_barrier", no_barrier},
    {"no_warp_sync", warp_sync<false>},
    {"no_warp_sync_before_matrices", matrices<48, false>},
    {"no_copy_wait", copies<false, true>},
    {"no_barrier_before_refill", copies<true, false>},
    {"full_mask_in_half_warp", half_vote<kAllLanes>},
    {"shuffle_from_outside", lane<3>},
    {"barrier_after_return", part<true>},
    {"two_barriers", first<true>},
    {"matrix_row_misaligned", matrices<24>},
    {"too_much_shared", too_much_shared},
    {"mma_on_old_chip", old_chip},
};

int report(const char* name, const char* order, int wrong) {
  if (wrong) std::fprintf(stderr, "%s, %s: %d wrong values\n", name, order, wrong);
  return wrong != 0;
}

int run_right() {
  int failed = 0;
  for (const char* order : {"forward", "reverse", "random"}) {
    for (unsigned seed = 0; seed < (std::strcmp(order, "random") ? 1u : 3u); ++seed) {
      emu::configure(80, order, seed);
      for (const Case& c : kRight) failed |= report(c.name, order, c.wrong_values());
    }
  }
  return failed;
}

int run_planted(const char* name, const char* order) {
  emu::configure(80, order, 1);
  for (const Case& c : kPlanted) {
    if (!std::strcmp(c.name, name)) return report(name, order, c.wrong_values());
  }
  std::fprintf(stderr, "no case %s\n", name);
  return 3;
}

}  // namespace
}  // namespace bnn::cuda

int main(int argc, char** argv) try {
  if (argc == 2 && !std::strcmp(argv[1], "right")) return bnn::cuda::run_right();
  if (argc == 3) return bnn::cuda::run_planted(argv[1], argv[2]);
  return 3;
} catch (const emu::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 2;
}
