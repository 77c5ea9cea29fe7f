#include "bnn/multires_pool2d.h"

#include <algorithm>

#include "cpu/ukernels.h"

namespace bnn::cpu {
namespace {

// Bins of one axis: `count` bins over `extent` positions.
struct Bins {
  int64_t extent, count;

  int64_t start(int64_t i) const { return i * extent / count; }
  int64_t end(int64_t i) const { return ceil_div((i + 1) * extent, count); }
  int64_t length(int64_t i) const { return end(i) - start(i); }
  int64_t first(int64_t position) const { return position * count / extent; }
  int64_t last(int64_t position) const { return ceil_div((position + 1) * count, extent) - 1; }
};

// One block of one plane. Row buffers are [W, width] float32, two per level because a row lies in at most two bins.
class Unit {
 public:
  Unit(const MultiresPool2d& p, int64_t unit, float* scratch)
      : p_(p),
        plane_(unit / p.blocks()),
        first_(unit % p.blocks() * p.block),
        width_(std::min(p.block, p.E - first_)),
        line_(scratch),
        cell_(scratch + p.W * p.block),
        rows_(cell_ + std::max(p.block, p.W)) {}

  void forward() {
    for (int64_t h = 0; h < p_.H; ++h) {
      for (size_t l = 0; l < p_.levels.size(); ++l) {
        const Bins bins{p_.H, p_.levels[l].h};
        for (int64_t i = bins.first(h); i <= bins.last(h); ++i) {
          if (h == bins.start(i)) std::fill_n(row(l, i), p_.W * width_, 0.0f);
          add_line(h, row(l, i));
          if (h == bins.end(i) - 1) write_bins(p_.levels[l], i, bins.length(i), row(l, i));
        }
      }
    }
  }

  void backward() {
    for (int64_t h = 0; h < p_.H; ++h) {
      std::fill_n(line_, p_.W * width_, 0.0f);
      for (size_t l = 0; l < p_.levels.size(); ++l) {
        const Bins bins{p_.H, p_.levels[l].h};
        for (int64_t i = bins.first(h); i <= bins.last(h); ++i) {
          if (h == bins.start(i)) spread_bins(p_.levels[l], i, bins.length(i), row(l, i));
          add(row(l, i), p_.W * width_, line_);
        }
      }
      write_line(h);
    }
  }

 private:
  float* row(size_t level, int64_t i) const {
    return rows_ + (2 * static_cast<int64_t>(level) + i % 2) * p_.W * p_.block;
  }

  void add(const float* from, int64_t n, float* to) const { k_.accumulate({from, DType::f32}, n, to); }

  // Element index of (line, position) of a [lines, positions, E] plane
  int64_t at(int64_t lines, int64_t positions, int64_t line, int64_t position) const {
    return ((plane_ * lines + line) * positions + position) * p_.E + first_;
  }

  void add_line(int64_t h, float* to) const {
    if (width_ == p_.E) return k_.accumulate(p_.x.at(at(p_.H, p_.W, h, 0)), p_.W * p_.E, to);
    for (int64_t w = 0; w < p_.W; ++w) k_.accumulate(p_.x.at(at(p_.H, p_.W, h, w)), width_, to + w * width_);
  }

  void write_line(int64_t h) const {
    if (width_ == p_.E) return k_.scale_store(line_, 1.0f, p_.W * p_.E, p_.grad_x.at(at(p_.H, p_.W, h, 0)));
    for (int64_t w = 0; w < p_.W; ++w) {
      k_.scale_store(line_ + w * width_, 1.0f, width_, p_.grad_x.at(at(p_.H, p_.W, h, w)));
    }
  }

  // Sums over columns, divides by the area: row i of a level.
  void write_bins(const MultiresPool2d::Level& level, int64_t i, int64_t height, const float* sums) const {
    const Bins bins{p_.W, level.w};
    for (int64_t j = 0; j < level.w; ++j) {
      const float factor = 1.0f / static_cast<float>(height * bins.length(j));
      if (p_.E == 1) {
        cell_[j] = 0.0f;
        for (int64_t w = bins.start(j); w < bins.end(j); ++w) cell_[j] += sums[w];
        cell_[j] *= factor;
        continue;
      }
      std::fill_n(cell_, width_, 0.0f);
      for (int64_t w = bins.start(j); w < bins.end(j); ++w) add(sums + w * width_, width_, cell_);
      k_.scale_store(cell_, factor, width_, level.data.at(at(level.h, level.w, i, j)));
    }
    if (p_.E == 1) k_.scale_store(cell_, 1.0f, level.w, level.data.at(at(level.h, level.w, i, 0)));
  }

  // The inverse: what row i of a level's gradient adds to every row of its bin.
  void spread_bins(const MultiresPool2d::Level& level, int64_t i, int64_t height, float* to) const {
    const Bins bins{p_.W, level.w};
    const ConstSpan grad{level.data.data, level.data.dtype};
    std::fill_n(to, p_.W * width_, 0.0f);
    if (p_.E == 1) {
      std::fill_n(cell_, level.w, 0.0f);
      k_.accumulate(grad.at(at(level.h, level.w, i, 0)), level.w, cell_);
    }
    for (int64_t j = 0; j < level.w; ++j) {
      const float factor = 1.0f / static_cast<float>(height * bins.length(j));
      if (p_.E == 1) {
        for (int64_t w = bins.start(j); w < bins.end(j); ++w) to[w] += factor * cell_[j];
        continue;
      }
      std::fill_n(cell_, width_, 0.0f);
      k_.accumulate(grad.at(at(level.h, level.w, i, j)), width_, cell_);
      k_.scale_store(cell_, factor, width_, {cell_, DType::f32});
      for (int64_t w = bins.start(j); w < bins.end(j); ++w) add(cell_, width_, to + w * width_);
    }
  }

  const MultiresPool2d& p_;
  const Ukernels& k_ = ukernels();
  int64_t plane_, first_, width_;
  float *line_, *cell_, *rows_;
};

}  // namespace

int64_t multires_pool2d_scratch(const MultiresPool2d& p) {
  return p.W * p.block * (1 + 2 * static_cast<int64_t>(p.levels.size())) + std::max(p.block, p.W);
}

void multires_pool2d(const MultiresPool2d& p, int64_t unit_begin, int64_t unit_end, float* scratch) {
  for (int64_t u = unit_begin; u < unit_end; ++u) Unit(p, u, scratch).forward();
}

void multires_pool2d_backward(const MultiresPool2d& p, int64_t unit_begin, int64_t unit_end, float* scratch) {
  for (int64_t u = unit_begin; u < unit_end; ++u) Unit(p, u, scratch).backward();
}

}  // namespace bnn::cpu
