#pragma once

#include "bnn/bits.h"
#include "cuda/device.h"
#include "cuda/divisor.h"

// Multi-resolution pooling and its gradient, whole lines of a plane at a time.

namespace bnn::cuda {

constexpr int kLevels = 4;  // of a launch: each has sums of its own in registers

// One axis of a level: bin i of `count` spans [floor(i extent / count), ceil((i + 1) extent / count)), which are
// ceil(extent / count) positions or one more.
struct Axis {
  int extent, count;
  int shortest;
  Divisor by_extent, by_count;

  Axis() = default;
  Axis(int64_t extent, int64_t count)
      : extent(static_cast<int>(extent)),
        count(static_cast<int>(count)),
        shortest(static_cast<int>(ceil_div(extent, count))),
        by_extent(extent),
        by_count(count) {}

  __device__ int begin(int bin) const { return by_count.quotient(bin * extent); }
  __device__ int end(int bin) const { return by_count.quotient((bin + 1) * extent + count - 1); }
  __device__ int first_bin(int position) const { return by_extent.quotient(position * count); }
  __device__ int last_bin(int position) const { return by_extent.quotient((position + 1) * count + extent - 1) - 1; }
  // The first bin that begins at a position or after it
  __device__ int bin_from(int position) const { return by_extent.quotient(position * count + extent - 1); }
};

struct Bin {
  int index, begin, end;

  Bin() = default;
  __device__ Bin(const Axis& axis, int index) : index(index), begin(axis.begin(index)), end(axis.end(index)) {}
};

struct Level {
  void* data;  // [planes, h, w, E]
  Axis rows, columns;
  int64_t pitch;       // elements of a row of bins
  float factor[2][2];  // 1 / (height * width) of a bin of the shortest height and width, or one more

  __device__ float factor_of(int height, int width) const {
    const bool tall = height > rows.shortest, wide = width > columns.shortest;
    return wide ? (tall ? factor[1][1] : factor[0][1]) : (tall ? factor[1][0] : factor[0][0]);
  }
};

// Of kernels whose threads hold N elements of a line each: the most threads of a block, and how many blocks a
// multiprocessor should have room for (what their registers allow without spills).
constexpr int line_threads(int N) { return N == 8 ? 512 : 256; }
constexpr int line_blocks(int N, bool forward) { return N == 8 ? 1 : N == 4 ? (forward ? 3 : 2) : 4; }

// What a launch does. A block takes `width` of the E elements and a strip of the rows of one plane; a line of it is
// [W, width]. A thread owns one of the elements at every positions-th column.
struct Pool {
  void* x = nullptr;         // [planes, H, W, E], read forward, written backward
  int64_t E = 1, pitch = 0;  // elements of a row
  int H = 0, W = 0;
  int width = 0, positions = 0, chunks = 0;
  int strips = 1, strip_rows = 0;
  int levels = 0;
  Level level[kLevels];

  int threads() const { return static_cast<int>(ceil_div(width * positions, kWarp)) * kWarp; }
  // Two lines, and a table of columns per level
  size_t shared() const { return sizeof(float) * static_cast<size_t>(W) * static_cast<size_t>(2 * width + levels); }
};

// A block's part of a plane, and a thread's part of a line.
struct Part {
  const Pool& p;
  int plane, strip_begin, strip_end;
  int column, channel;  // of the thread's first element, in the line
  int64_t first;        // that element in a row of the plane
  bool active;

  __device__ explicit Part(const Pool& p) : p(p) {
    const unsigned strip = blockIdx.x % p.strips, unit = blockIdx.x / p.strips;
    plane = static_cast<int>(unit / p.chunks);
    strip_begin = static_cast<int>(strip) * p.strip_rows;
    strip_end = min(strip_begin + p.strip_rows, p.H);
    column = static_cast<int>(threadIdx.x) / p.width;
    channel = static_cast<int>(threadIdx.x) % p.width;
    const int64_t e = int64_t{unit % p.chunks} * p.width + channel;
    first = column * p.E + e;
    active = column < p.positions && e < p.E;
  }

  // The thread's k-th element, if a line of so many columns has one: its column, and its places in a line and in a row
  __device__ bool owns(int k, int columns) const { return active && column_of(k) < columns; }
  __device__ int column_of(int k) const { return column + k * p.positions; }
  __device__ int in_line(int k) const { return static_cast<int>(threadIdx.x) + k * p.positions * p.width; }
  __device__ int64_t in_row(int k) const { return k * p.positions * p.E; }  // counted from the first
  // The first element in a tensor [planes, rows, pitch]
  __device__ int64_t at(int row, int rows, int64_t pitch) const {
    return (int64_t{plane} * rows + row) * pitch + first;
  }
};

template <class T, int N>
__device__ __forceinline__ void copy(const T (&from)[N], T (&to)[N]) {
#pragma unroll
  for (int k = 0; k < N; ++k) to[k] = from[k];
}

template <class T, int N>
__device__ __forceinline__ void load_row(const Part& part, const T* row, int columns, T (&v)[N]) {
#pragma unroll
  for (int k = 0; k < N; ++k) {
    if (part.owns(k, columns)) v[k] = row[part.in_row(k)];
  }
}

// The factors of one row of bins
struct Factors {
  float shortest, wide;

  __device__ Factors(const Level& level, const Bin& rows) {
    const int height = rows.end - rows.begin;
    shortest = level.factor_of(height, level.columns.shortest);
    wide = level.factor_of(height, level.columns.shortest + 1);
  }
};

// Sums of a bin's rows, one per column, to means of its columns. columns[j] = 2 (place of bin j in the line) + whether
// it is wide.
template <class T, int N>
__device__ __forceinline__ void store_bins(const Part& part, const Level& level, const int* columns, const Bin& bin,
                                           const float (&sum)[N], float* line, T* y) {
#pragma unroll
  for (int k = 0; k < N; ++k) {
    if (part.owns(k, part.p.W)) line[part.in_line(k)] = sum[k];
  }
  __syncthreads();
  const Factors factor(level, bin);
#pragma unroll
  for (int k = 0; k < N; ++k) {
    if (!part.owns(k, level.columns.count)) continue;
    const int code = columns[part.column_of(k)];
    const float* v = line + (code >> 1) + part.channel;
    float total = 0.0f;
#pragma unroll 1
    for (int w = 0; w < level.columns.shortest; ++w, v += part.p.width) total += *v;
    if (code & 1) total += *v;
    narrow((code & 1 ? factor.wide : factor.shortest) * total, y[part.in_row(k)]);
  }
}

// A block marches down the rows of its strip and on to the end of the last bin that begins in it.
template <class T, int N>
__global__ void __launch_bounds__(line_threads(N), line_blocks(N, true)) pool_lines(const Pool p) {
  constexpr int kRows = N < 4 ? 4 / N : 1;  // under way while as many are summed
  DYNAMIC_SHARED(float, line);              // two, used in turn: so one barrier between writing and reading will do
  int* columns = reinterpret_cast<int*>(line + 2 * p.W * p.width);
  const Part part(p);
  float sum[kLevels][N] = {};
  Bin bin[kLevels];
  T* y[kLevels];
  int end = part.strip_begin, turn = 0;
#pragma unroll
  for (int l = 0; l < kLevels; ++l) {
    if (l >= p.levels) break;
    const Level& level = p.level[l];
    for (int j = threadIdx.x; j < level.columns.count; j += blockDim.x) {
      const Bin column(level.columns, j);
      columns[l * p.W + j] = 2 * column.begin * p.width + (column.end - column.begin > level.columns.shortest);
    }
    bin[l] = Bin(level.rows, level.rows.bin_from(part.strip_begin));
    end = max(end, level.rows.end(level.rows.bin_from(part.strip_end) - 1));
    y[l] = static_cast<T*>(level.data) + part.at(bin[l].index, level.rows.count, level.pitch);
  }
  __syncthreads();
  const T* x = static_cast<const T*>(p.x) + part.at(part.strip_begin, p.H, p.pitch);  // next row to load
  T ahead[kRows][N] = {}, now[kRows][N] = {};
  auto load_ahead = [&](int row) {
#pragma unroll
    for (int r = 0; r < kRows; ++r, x += p.pitch) {
      if (row + r < end) load_row(part, x, p.W, ahead[r]);
    }
  };
  load_ahead(part.strip_begin);
  int left = 0;  // rows in now
#pragma unroll 1
  for (int row = part.strip_begin; row < end; ++row) {
    if (left == 0) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) copy(ahead[r], now[r]);
      load_ahead(row + kRows);
      left = kRows;
    }
    float v[N];
#pragma unroll
    for (int k = 0; k < N; ++k) v[k] = widen(now[0][k]);
#pragma unroll
    for (int r = 0; r + 1 < kRows; ++r) copy(now[r + 1], now[r]);
    --left;
#pragma unroll
    for (int l = 0; l < kLevels; ++l) {
      if (l >= p.levels) break;
      if (row < bin[l].begin) continue;
#pragma unroll
      for (int k = 0; k < N; ++k) sum[l][k] += v[k];
      if (row != bin[l].end - 1 || bin[l].begin >= part.strip_end) continue;
      store_bins(part, p.level[l], columns + l * p.W, bin[l], sum[l], line + turn * p.W * p.width, y[l]);
      turn ^= 1;
      y[l] += p.level[l].pitch;
      bin[l] = Bin(p.level[l].rows, bin[l].index + 1);
#pragma unroll
      for (int k = 0; k < N; ++k) sum[l][k] = row == bin[l].begin ? v[k] : 0.0f;
    }
  }
}

// Gradients of one row of bins to what each column of their rows gets. columns[i] = 4 (place in the line of the first
// bin that holds column i) + 2 (whether there is a second) + (whether bin i is wide).
template <class T, int N>
__device__ __forceinline__ void spread_bins(const Part& part, const Level& level, const int* columns, const Bin& bin,
                                            const T (&grad)[N], float* line, float (&spread)[N]) {
  const Factors factor(level, bin);
#pragma unroll
  for (int k = 0; k < N; ++k) {
    if (!part.owns(k, level.columns.count)) continue;
    line[part.in_line(k)] = (columns[part.column_of(k)] & 1 ? factor.wide : factor.shortest) * widen(grad[k]);
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < N; ++k) {
    if (!part.owns(k, part.p.W)) continue;
    const int code = columns[part.column_of(k)];
    const float* v = line + (code >> 2) + part.channel;
    spread[k] = v[0];
    if (code & 2) spread[k] += v[part.p.width];
  }
}

// A block marches down the rows of its strip. Each row of bins is read once, when the row of bins before it begins.
template <class T, int N>
__global__ void __launch_bounds__(line_threads(N), line_blocks(N, false)) spread_lines(const Pool p) {
  DYNAMIC_SHARED(float, line);  // two, used in turn
  int* columns = reinterpret_cast<int*>(line + 2 * p.W * p.width);
  const Part part(p);
  float spread[kLevels][N] = {};
  T ahead[kLevels][N] = {};  // gradients of the row of bins to come
  const T* grad[kLevels];    // there
  Bin bin[kLevels];
  int turn = 0;
#pragma unroll
  for (int l = 0; l < kLevels; ++l) {
    if (l >= p.levels) break;
    const Level& level = p.level[l];
    for (int i = threadIdx.x; i < p.W; i += blockDim.x) {
      const int first = level.columns.first_bin(i), second = level.columns.last_bin(i) > first;
      const Bin column(level.columns, i);  // beyond the last one: not looked up
      const int wide = column.end - column.begin > level.columns.shortest;
      columns[l * p.W + i] = 4 * first * p.width + 2 * second + wide;
    }
    bin[l] = Bin(level.rows, level.rows.first_bin(part.strip_begin));
    grad[l] = static_cast<const T*>(level.data) + part.at(bin[l].index, level.rows.count, level.pitch);
    load_row(part, grad[l], level.columns.count, ahead[l]);
  }
  __syncthreads();
  T* grad_x = static_cast<T*>(p.x) + part.at(part.strip_begin, p.H, p.pitch);
#pragma unroll 1
  for (int row = part.strip_begin; row < part.strip_end; ++row, grad_x += p.pitch) {
    float sum[N] = {};
#pragma unroll
    for (int l = 0; l < kLevels; ++l) {
      if (l >= p.levels) break;
      const Level& level = p.level[l];
#pragma unroll 1
      for (;;) {  // over the bins that hold the row, two at most
        if (row == max(bin[l].begin, part.strip_begin)) {
          spread_bins(part, level, columns + l * p.W, bin[l], ahead[l], line + turn * p.W * p.width, spread[l]);
          turn ^= 1;
          grad[l] += level.pitch;
          if (level.rows.begin(bin[l].index + 1) < part.strip_end) {
            load_row(part, grad[l], level.columns.count, ahead[l]);
          }
        }
#pragma unroll
        for (int k = 0; k < N; ++k) sum[k] += spread[l][k];
        if (row < bin[l].end - 1) break;
        bin[l] = Bin(level.rows, bin[l].index + 1);
        if (bin[l].begin > row) break;
      }
    }
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (part.owns(k, p.W)) narrow(sum[k], grad_x[part.in_row(k)]);
    }
  }
}

}  // namespace bnn::cuda
