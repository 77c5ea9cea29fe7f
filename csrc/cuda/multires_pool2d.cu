#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "bnn/multires_pool2d.h"
#include "cuda/launch.h"
#include "cuda/pool_lines.h"

namespace bnn::cuda {
namespace {

constexpr int kEachThreads = 256;
constexpr int64_t kMaxBlocks = int64_t{1} << 24;
constexpr Status kInvalidValue = 1;   // cudaErrorInvalidValue
constexpr int kManyLevels = 32;       // of a gradient, in the parameters of one launch
constexpr int kLine = 2048;           // elements of a line where the width is free
constexpr size_t kShared = 48 << 10;  // bytes that a block gets without asking
constexpr int kSector = 32;           // bytes: the least that is worth reading at a time

// Any shape: a block takes a row of bins at a time, a thread an output, whose bin it reads column by column.
template <class T>
__global__ void __launch_bounds__(kEachThreads) pool_each(const T* x, int64_t planes, int64_t E, const Level level) {
  const int64_t pitch = level.columns.extent * E;
  for (int64_t row = blockIdx.x; row < planes * level.rows.count; row += gridDim.x) {
    const Bin rows(level.rows, static_cast<int>(row % level.rows.count));
    const T* top = x + (row / level.rows.count * level.rows.extent + rows.begin) * pitch;
    for (int64_t k = threadIdx.x; k < level.pitch; k += kEachThreads) {
      const Bin columns(level.columns, static_cast<int>(k / E));
      float total = 0.0f;
      for (int w = columns.begin; w < columns.end; ++w) {
        const T* v = top + w * E + k % E;
        float sum = 0.0f;
        for (int h = rows.begin; h < rows.end; ++h, v += pitch) sum += widen(*v);
        total += sum;
      }
      const float mean = level.factor_of(rows.end - rows.begin, columns.end - columns.begin) * total;
      narrow(mean, static_cast<T*>(level.data)[row * level.pitch + k]);
    }
  }
}

struct ManyLevels {
  int count = 0;
  Level level[kManyLevels];
};

// Any shape: a block takes a row of the gradient of x at a time.
template <class T>
__global__ void __launch_bounds__(kEachThreads)
    spread_each(T* grad_x, int64_t planes, int64_t H, int64_t W, int64_t E, const ManyLevels levels) {
  for (int64_t row = blockIdx.x; row < planes * H; row += gridDim.x) {
    const int h = static_cast<int>(row % H);
    for (int64_t k = threadIdx.x; k < W * E; k += kEachThreads) {
      const int w = static_cast<int>(k / E);
      float sum = 0.0f;
      for (int l = 0; l < levels.count; ++l) {
        const Level& level = levels.level[l];
        const T* grad = static_cast<const T*>(level.data) + row / H * level.rows.count * level.pitch + k % E;
        for (int i = level.rows.first_bin(h); i <= level.rows.last_bin(h); ++i) {
          const Bin rows(level.rows, i);
          float spread = 0.0f;
          for (int j = level.columns.first_bin(w); j <= level.columns.last_bin(w); ++j) {
            const Bin columns(level.columns, j);
            const float factor = level.factor_of(rows.end - rows.begin, columns.end - columns.begin);
            spread += factor * widen(grad[i * level.pitch + j * E]);
          }
          sum += spread;
        }
      }
      narrow(sum, grad_x[row * W * E + k]);
    }
  }
}

Level level_of(const MultiresPool2d& p, const MultiresPool2d::Level& from) {
  Level level{from.data.data, Axis(p.H, from.h), Axis(p.W, from.w), from.w * p.E, {}};
  for (int tall = 0; tall < 2; ++tall) {
    for (int wide = 0; wide < 2; ++wide) {
      const int64_t area = int64_t{level.rows.shortest + tall} * (level.columns.shortest + wide);
      level.factor[tall][wide] = 1.0f / static_cast<float>(area);
    }
  }
  return level;
}

using LineKernel = void (*)(Pool);

template <class T>
LineKernel line_kernel(bool forward, int elements) {
  if (elements > 4) return forward ? pool_lines<T, 8> : spread_lines<T, 8>;
  if (elements > 2) return forward ? pool_lines<T, 4> : spread_lines<T, 4>;
  if (elements > 1) return forward ? pool_lines<T, 2> : spread_lines<T, 2>;
  return forward ? pool_lines<T, 1> : spread_lines<T, 1>;
}

// Cuts planes into blocks and lines into threads; false where a line is too long. Accesses of a warp begin on sectors
// if lines do.
bool cut_lines(const MultiresPool2d& p, int64_t bytes, Pool& pool) {
  const int64_t sector = kSector / bytes, free = std::min<int64_t>(kLine / p.W, line_threads(1)) / sector * sector;
  pool.width = static_cast<int>(std::min(p.E, std::max(sector, free)));
  pool.chunks = static_cast<int>(ceil_div(p.E, pool.width));
  if (pool.chunks > 1) pool.width = static_cast<int>(ceil_div(ceil_div(p.E, pool.chunks), sector) * sector);
  const int64_t step = sector / std::gcd(pool.width, sector);
  for (const auto& [threads, elements] :
       {std::pair(line_threads(4), 4), std::pair(line_threads(4), 8), std::pair(line_threads(8), 8)}) {
    int64_t positions = std::min<int64_t>(p.W, threads / pool.width);
    if (positions < p.W && positions > step) positions -= positions % step;
    if (positions * elements < p.W) continue;
    pool.positions = static_cast<int>(positions);
    pool.levels = kLevels;
    return pool.shared() <= kShared && p.planes * pool.chunks < kMaxBlocks;
  }
  return false;
}

// More blocks by cutting planes into strips of rows, where there are too few. A strip is so long that the rows which
// its neighbours read, too, hardly count.
void cut_strips(const MultiresPool2d& p, const Stream& stream, Pool& pool) {
  constexpr int64_t kBinsPerStrip = 16, kThreadsPerMultiprocessor = 1024;
  int64_t tallest = 1;
  for (const MultiresPool2d::Level& level : p.levels) tallest = std::max(tallest, ceil_div(p.H, level.h) + 1);
  const int64_t blocks = stream.multiprocessors * (kThreadsPerMultiprocessor / pool.threads());
  const int64_t wanted = ceil_div(blocks, p.planes * pool.chunks);
  const int64_t strips = std::max<int64_t>(1, std::min(wanted, p.H / (tallest * kBinsPerStrip)));
  pool.strip_rows = static_cast<int>(ceil_div(p.H, strips));
  pool.strips = static_cast<int>(ceil_div(p.H, pool.strip_rows));
}

// Levels [first, first + kLevels) or what there is of them
Status launch_lines(const MultiresPool2d& p, DType dtype, bool forward, size_t first, Pool pool, const Stream& stream) {
  pool.levels = static_cast<int>(std::min<size_t>(p.levels.size() - first, kLevels));
  for (int l = 0; l < pool.levels; ++l) pool.level[l] = level_of(p, p.levels[first + static_cast<size_t>(l)]);
  const unsigned grid = static_cast<unsigned>(p.planes * pool.chunks * pool.strips);
  return with_type(dtype, [&](auto tag) {
    const LineKernel kernel = line_kernel<decltype(tag)>(forward, static_cast<int>(ceil_div(pool.W, pool.positions)));
    LAUNCH(kernel, grid, static_cast<unsigned>(pool.threads()), pool.shared(), stream, pool);
    return launch_status();
  });
}

bool empty(const MultiresPool2d& p) { return p.planes * p.H * p.W * p.E == 0; }

// Whether Axis can count in int.
bool countable(const MultiresPool2d& p) {
  return std::ranges::all_of(p.levels, [&](const MultiresPool2d::Level& level) {
    return std::max(p.H * (level.h + 2), p.W * (level.w + 2)) <= std::numeric_limits<int>::max();
  });
}

// What a launch over whole lines needs, but for the levels; false where lines are too long.
bool plan_lines(const MultiresPool2d& p, DType dtype, void* x, const Stream& stream, Pool& pool) {
  pool.x = x;
  pool.E = p.E;
  pool.pitch = p.W * p.E;
  pool.H = static_cast<int>(p.H);
  pool.W = static_cast<int>(p.W);
  if (!cut_lines(p, static_cast<int64_t>(size_of(dtype)), pool)) return false;
  cut_strips(p, stream, pool);
  return true;
}

}  // namespace

Status multires_pool2d(const MultiresPool2d& p, const Stream& stream) {
  if (empty(p)) return 0;
  if (!countable(p)) return kInvalidValue;
  Pool pool;
  if (plan_lines(p, p.x.dtype, const_cast<void*>(p.x.data), stream, pool)) {
    for (size_t first = 0; first < p.levels.size(); first += kLevels) {
      if (const Status status = launch_lines(p, p.x.dtype, true, first, pool, stream)) return status;
    }
    return 0;
  }
  return with_type(p.x.dtype, [&](auto tag) {
    using T = decltype(tag);
    for (const MultiresPool2d::Level& level : p.levels) {
      const unsigned grid = grid_size(p.planes * level.h, stream);
      LAUNCH(pool_each<T>, grid, kEachThreads, 0, stream, static_cast<const T*>(p.x.data), p.planes, p.E,
             level_of(p, level));
      if (const Status status = launch_status()) return status;
    }
    return Status{0};
  });
}

Status multires_pool2d_backward(const MultiresPool2d& p, const Stream& stream) {
  if (empty(p)) return 0;
  if (!countable(p) || p.levels.size() > kManyLevels) return kInvalidValue;
  const DType dtype = p.grad_x.dtype;
  Pool pool;
  if (p.levels.size() <= kLevels && plan_lines(p, dtype, p.grad_x.data, stream, pool)) {
    return launch_lines(p, dtype, false, 0, pool, stream);
  }
  ManyLevels levels;
  for (const MultiresPool2d::Level& level : p.levels) levels.level[levels.count++] = level_of(p, level);
  return with_type(dtype, [&](auto tag) {
    using T = decltype(tag);
    const unsigned grid = grid_size(p.planes * p.H, stream);
    LAUNCH(spread_each<T>, grid, kEachThreads, 0, stream, static_cast<T*>(p.grad_x.data), p.planes, p.H, p.W, p.E,
           levels);
    return launch_status();
  });
}

}  // namespace bnn::cuda
