#include "bnn/multires_pool2d.h"

#include <algorithm>
#include <numeric>

#include "cpu/parts.h"
#include "cpu/ukernels.h"

namespace bnn::cpu {
namespace {

// Bins of one axis: `count` bins over `extent` positions.
struct Bins {
  int64_t extent, count;

  int64_t start(int64_t i) const { return i * extent / count; }
  int64_t end(int64_t i) const { return ceil_div((i + 1) * extent, count); }
  int64_t first(int64_t position) const { return position * count / extent; }
  int64_t last(int64_t position) const { return ceil_div((position + 1) * count, extent) - 1; }
};

constexpr int64_t kSums = 64, kSlice = 256;  // of a plane without channels: sums, and terms of one at a time

int64_t unit_scratch(const MultiresPool2d& p) {
  return std::max(kSums, p.W * p.block * (1 + 2 * static_cast<int64_t>(p.levels.size())));
}

// One bin of all pixels: needs no row buffers
bool is_mean(const MultiresPool2d& p) { return p.levels.size() == 1 && p.levels[0].h * p.levels[0].w == 1; }

// One block of one plane. Row buffers are [W, width] float32, two per level because a row lies in at most two bins.
class Unit {
 public:
  Unit(const MultiresPool2d& p, int64_t unit, float* scratch)
      : p_(p),
        plane_(unit / p.blocks()),
        first_(unit % p.blocks() * p.block),
        width_(std::min(p.block, p.E - first_)),
        line_(scratch),
        rows_(scratch + p.W * p.block) {}

  void forward() {
    if (is_mean(p_)) return mean();
    for (int64_t h = 0; h < p_.H; ++h) {
      for (size_t l = 0; l < p_.levels.size(); ++l) {
        const MultiresPool2d::Level& level = p_.levels[l];
        const Bins bins{p_.H, level.h};
        for (int64_t i = bins.first(h); i <= bins.last(h); ++i) {
          float* sums = row(l, i);
          if (h == bins.start(i)) std::fill_n(sums, p_.W * width_, 0.0f);
          add_line(h, sums);
          if (h != bins.end(i) - 1) continue;
          k_.average_bins(columns(level, bins, i), sums, width_, level.data.at(at(level.h, level.w, i, 0)), p_.E);
        }
      }
    }
  }

  void backward() {
    if (is_mean(p_)) return mean_backward();
    for (int64_t h = 0; h < p_.H; ++h) {
      std::fill_n(line_, p_.W * width_, 0.0f);
      for (size_t l = 0; l < p_.levels.size(); ++l) {
        const MultiresPool2d::Level& level = p_.levels[l];
        const Bins bins{p_.H, level.h};
        for (int64_t i = bins.first(h); i <= bins.last(h); ++i) {
          float* spread = row(l, i);
          if (h == bins.start(i)) {
            std::fill_n(spread, p_.W * width_, 0.0f);
            const ConstSpan grad{level.data.data, level.data.dtype};
            k_.spread_bins(columns(level, bins, i), grad.at(at(level.h, level.w, i, 0)), p_.E, width_, spread);
          }
          add({spread, DType::f32}, p_.W * width_, line_);
        }
      }
      write_line(h);
    }
  }

 private:
  void mean() {
    if (p_.E > 1) {
      std::fill_n(line_, width_, 0.0f);
      for (int64_t h = 0; h < p_.H; ++h) k_.accumulate(p_.x.at(at(p_.H, p_.W, h, 0)), p_.W, p_.E, width_, line_);
    } else {
      const int64_t pixels = p_.H * p_.W, whole = pixels / kSums;
      const ConstSpan plane = p_.x.at(plane_ * pixels);
      std::fill_n(line_, kSums, 0.0f);
      for (int64_t i = 0; i < whole; i += kSlice) {  // sums of few terms lose less
        k_.accumulate(plane.at(i * kSums), std::min(kSlice, whole - i), kSums, kSums, line_);
      }
      add(plane.at(whole * kSums), pixels - whole * kSums, line_);
      line_[0] = std::accumulate(line_, line_ + kSums, 0.0f);
    }
    k_.average_bins(all_pixels(), line_, width_, p_.levels[0].data.at(at(1, 1, 0, 0)), p_.E);
  }

  void mean_backward() {
    const Span data = p_.levels[0].data;
    std::fill_n(line_, p_.W * width_, 0.0f);
    k_.spread_bins(all_pixels(), ConstSpan{data.data, data.dtype}.at(at(1, 1, 0, 0)), p_.E, width_, line_);
    for (int64_t w = 1; w < p_.W; ++w) std::copy_n(line_, width_, line_ + w * width_);
    for (int64_t h = 0; h < p_.H; ++h) write_line(h);
  }

  PoolBins all_pixels() const { return {&kFirst, &kLast, 1, p_.H * p_.W}; }

  static constexpr int32_t kFirst = 0, kLast = 1;

  float* row(size_t level, int64_t i) const {
    return rows_ + (2 * static_cast<int64_t>(level) + i % 2) * p_.W * p_.block;
  }

  static PoolBins columns(const MultiresPool2d::Level& level, const Bins& rows, int64_t i) {
    return {level.start.data(), level.end.data(), level.w, rows.end(i) - rows.start(i)};
  }

  // Element index of (line, position) of a [lines, positions, E] plane
  int64_t at(int64_t lines, int64_t positions, int64_t line, int64_t position) const {
    return ((plane_ * lines + line) * positions + position) * p_.E + first_;
  }

  void add(ConstSpan x, int64_t n, float* to) const { k_.accumulate(x, 1, 0, n, to); }

  void add_line(int64_t h, float* to) const {
    if (width_ == p_.E) return add(p_.x.at(at(p_.H, p_.W, h, 0)), p_.W * p_.E, to);
    for (int64_t w = 0; w < p_.W; ++w) add(p_.x.at(at(p_.H, p_.W, h, w)), width_, to + w * width_);
  }

  void write_line(int64_t h) const {
    if (width_ == p_.E) return k_.round_store(line_, p_.W * p_.E, p_.grad_x.at(at(p_.H, p_.W, h, 0)));
    for (int64_t w = 0; w < p_.W; ++w) {
      k_.round_store(line_ + w * width_, width_, p_.grad_x.at(at(p_.H, p_.W, h, w)));
    }
  }

  const MultiresPool2d& p_;
  const Ukernels& k_ = ukernels();
  int64_t plane_, first_, width_;
  float *line_, *rows_;
};

constexpr int64_t kLanes = 16;
constexpr int64_t kSmallPlane = 1024;  // positions

// Many small planes of one channel go side by side, as if they were channels innermost: a row alone is shorter than a
// vector.
bool side_by_side(const MultiresPool2d& p) {
  return p.E == 1 && p.planes >= kLanes && p.H * p.W <= kSmallPlane && !is_mean(p);
}

class PlanesTogether {
 public:
  PlanesTogether(const MultiresPool2d& p, Parts& parts)
      : p_(p), together_(p), line_(parts.take<float>(p.H * p.W)), image_(parts.take<float>(p.H * p.W * kLanes)) {
    together_.planes = 1, together_.E = together_.block = kLanes;
    together_.x = {image_, DType::f32}, together_.grad_x = {image_, DType::f32};
    for (MultiresPool2d::Level& level : together_.levels) {
      level.data = {parts.take<float>(level.h * level.w * kLanes), DType::f32};
    }
    scratch_ = parts.take<float>(unit_scratch(together_));
  }

  // Planes [first, first + count)
  void forward(int64_t first, int64_t count) {
    join(p_.x, first, count, p_.H * p_.W, image_);
    Unit(together_, 0, scratch_).forward();
    for (size_t l = 0; l < p_.levels.size(); ++l) {
      const MultiresPool2d::Level& level = p_.levels[l];
      part(level_of(l), first, count, level.h * level.w, level.data);
    }
  }

  void backward(int64_t first, int64_t count) {
    for (size_t l = 0; l < p_.levels.size(); ++l) {
      const MultiresPool2d::Level& level = p_.levels[l];
      join({level.data.data, level.data.dtype}, first, count, level.h * level.w, level_of(l));
    }
    Unit(together_, 0, scratch_).backward();
    part(image_, first, count, p_.H * p_.W, p_.grad_x);
  }

 private:
  float* level_of(size_t l) const { return static_cast<float*>(together_.levels[l].data.data); }

  // planes [count, size] -> to [size, kLanes]
  void join(ConstSpan planes, int64_t first, int64_t count, int64_t size, float* to) const {
    if (count < kLanes) std::fill_n(to, size * kLanes, 0.0f);
    for (int64_t lane = 0; lane < count; ++lane) {
      std::fill_n(line_, size, 0.0f);
      ukernels().accumulate(planes.at((first + lane) * size), 1, 0, size, line_);
      for (int64_t i = 0; i < size; ++i) to[i * kLanes + lane] = line_[i];
    }
  }

  void part(const float* from, int64_t first, int64_t count, int64_t size, Span planes) const {
    for (int64_t lane = 0; lane < count; ++lane) {
      for (int64_t i = 0; i < size; ++i) line_[i] = from[i * kLanes + lane];
      ukernels().round_store(line_, size, planes.at((first + lane) * size));
    }
  }

  const MultiresPool2d& p_;
  MultiresPool2d together_;
  float *line_, *image_, *scratch_;
};

// f(planes together, first, count) over units [begin, end)
template <class F>
void for_planes(const MultiresPool2d& p, int64_t begin, int64_t end, float* scratch, const F& f) {
  Parts parts(scratch);
  PlanesTogether together(p, parts);
  for (; begin < end; begin += kLanes) f(together, begin, std::min(kLanes, end - begin));
}

}  // namespace

void multires_pool2d_plan(MultiresPool2d& p) {
  for (MultiresPool2d::Level& level : p.levels) {
    const Bins bins{p.W, level.w};
    for (int64_t j = 0; j < level.w; ++j) {
      level.start.push_back(static_cast<int32_t>(bins.start(j)));
      level.end.push_back(static_cast<int32_t>(bins.end(j)));
    }
  }
}

int64_t multires_pool2d_scratch(const MultiresPool2d& p) {
  if (!side_by_side(p)) return unit_scratch(p);
  Parts parts;
  static_cast<void>(PlanesTogether(p, parts));
  return parts.bytes() / static_cast<int64_t>(sizeof(float));
}

void multires_pool2d(const MultiresPool2d& p, int64_t unit_begin, int64_t unit_end, float* scratch) {
  if (side_by_side(p)) {
    return for_planes(p, unit_begin, unit_end, scratch,
                      [](PlanesTogether& planes, int64_t first, int64_t count) { planes.forward(first, count); });
  }
  for (int64_t u = unit_begin; u < unit_end; ++u) Unit(p, u, scratch).forward();
}

void multires_pool2d_backward(const MultiresPool2d& p, int64_t unit_begin, int64_t unit_end, float* scratch) {
  if (side_by_side(p)) {
    return for_planes(p, unit_begin, unit_end, scratch,
                      [](PlanesTogether& planes, int64_t first, int64_t count) { planes.backward(first, count); });
  }
  for (int64_t u = unit_begin; u < unit_end; ++u) Unit(p, u, scratch).backward();
}

}  // namespace bnn::cpu
