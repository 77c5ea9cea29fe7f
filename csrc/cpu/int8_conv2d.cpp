#include "bnn/int8_conv2d.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/parts.h"
#include "cpu/ukernels.h"

namespace bnn::cpu {
namespace {

constexpr float kLeast = 0x1p-100f;  // an image below it counts as 0: 127 / kLeast is still finite
constexpr int64_t kChunkPanels = 4;  // as many sums of a few pixels as fit in registers
constexpr uint8_t kZero = 128;       // what a byte of 0 stands for

int64_t panel_count(const Int8Conv2d& p) { return ceil_div(p.geometry.K, kPanel); }
int64_t sums_ld(const Int8Conv2d& p) { return panel_count(p) * kPanel; }
int64_t row_bytes(const Int8Conv2d& p) { return (p.geometry.W + 2 * p.geometry.pad_w) * p.elements(); }
bool pooled(const Int8Conv2d& p) { return p.pool.size > 1 || p.pool.stride > 1; }

// What one thread works in
struct Workspace {
  float* scale;            // [K] of this image
  const uint8_t** window;  // [R, planes] rows of bytes under a row of the output
  uint8_t* bytes;          // [R, planes, row_step]: the last rows of the padded image
  int64_t row_step;
  int32_t* sums;          // [OW, ld]
  int32_t* columns;       // [pool.size, PW, ld]: the last rows of sums, pooled along the row
  int32_t* result;        // [PW, ld]
  const int32_t** terms;  // [pool.size]

  Workspace(const Int8Conv2d& p, Parts& parts)
      : scale(parts.take<float>(p.geometry.K)),
        window(parts.take<const uint8_t*>(p.runs())),
        row_step(ceil_div(row_bytes(p) + 3, 64) * 64),
        sums(parts.take<int32_t>(p.geometry.OW * sums_ld(p))),
        columns(pooled(p) ? parts.take<int32_t>(p.pool.size * p.PW * sums_ld(p)) : nullptr),
        result(pooled(p) ? parts.take<int32_t>(p.PW * sums_ld(p)) : sums),
        terms(parts.take<const int32_t*>(p.pool.size)) {
    bytes = parts.take<uint8_t>(p.runs() * row_step);
  }
};

// Rows of one image, from the top down: every row of bytes and of sums is made once, when first needed.
class ImageRows {
 public:
  ImageRows(const Int8Conv2d& p, const Workspace& w, int64_t n) : p_(p), g_(p.geometry), w_(w), n_(n) {
    const float step = p.steps[n];
    inverse_ = step > 0 && std::isfinite(step) ? 1 / step : 0;
  }

  // Sums of row `row` of the output, in w.result
  void make(int64_t row) {
    if (!pooled(p_)) return make_sums(row);
    const int64_t first = std::max<int64_t>(0, row * p_.pool.stride - p_.pool.padding);
    const int64_t last = std::min(g_.OH, row * p_.pool.stride - p_.pool.padding + p_.pool.size);
    const int64_t size = p_.PW * sums_ld(p_);
    const auto columns = [&](int64_t oh) { return w_.columns + oh % p_.pool.size * size; };
    for (next_sums_ = std::max(next_sums_, first); next_sums_ < last; ++next_sums_) {
      make_sums(next_sums_);
      pool_columns(columns(next_sums_));
    }
    for (int64_t oh = first; oh < last; ++oh) w_.terms[oh - first] = columns(oh);
    ukernels().maxima(w_.terms, last - first, 1, 0, size, w_.result);
  }

 private:
  void make_sums(int64_t oh) {
    for (int64_t r = 0; r < g_.R; ++r) {
      const int64_t padded = oh * g_.stride_h + r;
      uint8_t* bytes = w_.bytes + padded % g_.R * p_.planes * w_.row_step;
      const bool made = padded < next_bytes_;
      for (int64_t plane = 0; plane < p_.planes; ++plane, bytes += w_.row_step) {
        if (!made) make_bytes(plane, padded - g_.pad_h, bytes);
        w_.window[r * p_.planes + plane] = bytes;
      }
      next_bytes_ = std::max(next_bytes_, padded + 1);
    }
    ByteProducts q{};
    q.rows = w_.window;
    q.pixels = g_.OW;
    q.step = g_.stride_w * p_.elements();
    q.runs = p_.runs();
    q.run = p_.run();
    q.ld = sums_ld(p_);
    const int64_t panel_bytes = (1 + q.runs * q.run) * kPanelBytes;
    for (int64_t panel = 0; panel < panel_count(p_); panel += kChunkPanels) {
      q.panels = p_.panels + panel * panel_bytes;
      q.count = std::min(kChunkPanels, panel_count(p_) - panel);
      q.dot = w_.sums + panel * kPanel;
      ukernels().byte_products(q);
    }
  }

  void make_bytes(int64_t plane, int64_t h, uint8_t* bytes) const {
    const int64_t pad = g_.pad_w * p_.elements(), inside = g_.W * p_.elements();
    if (h < 0 || h >= g_.H) {
      std::memset(bytes, kZero, static_cast<size_t>(w_.row_step));
      return;
    }
    std::memset(bytes, kZero, static_cast<size_t>(pad));
    ukernels().to_bytes(p_.x.at(((n_ * p_.planes + plane) * g_.H + h) * inside), inside, inverse_, bytes + pad);
    std::memset(bytes + pad + inside, kZero, static_cast<size_t>(w_.row_step - pad - inside));
  }

  void pool_columns(int32_t* columns) const {
    const int64_t ld = sums_ld(p_), size = p_.pool.size, step = p_.pool.stride, padding = p_.pool.padding;
    // Windows [j, j + count): one, or some that lie inside
    const auto pool = [&](int64_t j, int64_t count) {
      const int64_t first = std::max<int64_t>(0, j * step - padding), last = std::min(g_.OW, j * step - padding + size);
      for (int64_t ow = first; ow < last; ++ow) w_.terms[ow - first] = w_.sums + ow * ld;
      ukernels().maxima(w_.terms, last - first, count, step * ld, ld, columns + j * ld);
    };
    const int64_t inside = std::min(p_.PW, ceil_div(padding, step));
    const int64_t after = std::max(inside, (g_.OW + padding - size + step) / step);
    for (int64_t j = 0; j < inside; ++j) pool(j, 1);
    if (inside < after) pool(inside, after - inside);
    for (int64_t j = after; j < p_.PW; ++j) pool(j, 1);
  }

  const Int8Conv2d& p_;
  const ConvGeometry& g_;
  const Workspace& w_;
  int64_t n_, next_bytes_ = 0, next_sums_ = 0;
  float inverse_ = 0;
};

}  // namespace

void image_steps(const Int8Conv2d& p, int64_t begin, int64_t end) {
  const int64_t size = p.geometry.H * p.geometry.W * p.geometry.C;
  for (int64_t n = begin; n < end; ++n) {
    const float largest = ukernels().max_abs(p.x.at(n * size), size);
    p.steps[n] = largest >= kLeast ? largest / 127 : 0;
  }
}

int64_t int8_conv2d_scratch(const Int8Conv2d& p) {
  Parts parts;
  static_cast<void>(Workspace(p, parts));
  return parts.bytes() / 8;
}

void int8_conv2d(const Int8Conv2d& p, int64_t begin, int64_t end, uint64_t* scratch) {
  Parts parts(scratch);
  const Workspace w(p, parts);
  Epilogue e = p.epilogue;
  e.scale = w.scale;
  ukernels().tile_rows(static_cast<int>(std::min<int64_t>(kTileRows, p.geometry.OW)));
  while (begin < end) {
    const int64_t n = begin / p.PH, last = std::min(end, (n + 1) * p.PH);
    for (int64_t k = 0; k < p.geometry.K; ++k) w.scale[k] = p.epilogue.scale[k] * p.steps[n];
    ImageRows image(p, w, n);
    for (; begin < last; ++begin) {
      image.make(begin - n * p.PH);
      store_rows(e, {w.result, nullptr, sums_ld(p)}, {begin * p.PW, p.PW, 0, p.geometry.K});
    }
  }
  ukernels().tile_rows(0);
}

}  // namespace bnn::cpu
