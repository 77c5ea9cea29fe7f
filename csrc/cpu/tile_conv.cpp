#include "cpu/tile_conv.h"

#include <algorithm>
#include <cstring>

#include "bnn/epilogue.h"
#include "cpu/conv_rows.h"
#include "cpu/ukernels.h"

namespace bnn::cpu {
namespace {

int64_t group_count(const ConvPlan& p) { return p.geometry.G * p.group_panels; }

int64_t round_to_line(int64_t words) { return ceil_div(words, 8) * 8; }

// Tiles may read pixels past the last one, a step bytes past the last channel.
int64_t block_words(const ConvPlan& p) {
  const TilePlan& t = p.tiles;
  const int64_t pixels = t.images * t.planes() * t.plane() + kTileRows;
  return round_to_line(ceil_div(pixels * p.geometry.C + kWordBits, 8));
}

int64_t job_words(const ConvPlan& p) { return round_to_line(ceil_div(p.tiles.job * p.tiles.rows * p.ld, 2)); }

// A panel of tiles, where filters are expanded for every job; the whole of it only for jobs that come back to it.
bool whole_panel(const ConvPlan& p) { return p.tiles.job > kRingTiles; }

int64_t buffer_words(const ConvPlan& p) {
  const TilePlan& t = p.tiles;
  return t.expand_once ? 0 : (whole_panel(p) ? ceil_div(t.steps(), t.weave) * t.weave : kRing) * kTileBytes / 8;
}

bool words_as_they_are(const ConvPlan& p) { return p.geometry.Cg() % kWordBits == 0; }

// Filters of panels [panel, panel + count) of a group, as they are or packed [count * 16, steps]
FilterWords filter_words(const ConvPlan& p, int64_t panel, int64_t count, const uint64_t* packed) {
  const ConvGeometry& g = p.geometry;
  const TilePlan& t = p.tiles;
  const uint64_t* valid = t.valid.empty() ? nullptr : t.valid.data();
  if (!words_as_they_are(p)) return {packed, t.steps(), count * kPanel, t.steps(), valid};
  const int64_t in_group = panel % p.group_panels * kPanel, k0 = panel / p.group_panels * g.Kg() + in_group;
  const int64_t stride = g.taps() * g.Lg();
  return {p.weight + k0 * stride, stride, std::min(count * kPanel, g.Kg() - in_group), t.steps(), valid};
}

void pack_rows(const ConvPlan& p, int64_t panel, uint64_t* packed) {
  const ConvGeometry& g = p.geometry;
  const int64_t in_group = panel % p.group_panels * kPanel, k0 = panel / p.group_panels * g.Kg() + in_group;
  const int64_t last = std::min<int64_t>(kPanel, g.Kg() - in_group) - 1;
  for (int64_t i = 0; i < kPanel; ++i) {
    const uint64_t* filter = p.weight + (k0 + std::min(i, last)) * g.taps() * g.Lg();
    pack_filter(p, filter, p.tiles.run_taps, packed + i * p.tiles.steps());
  }
}

// Output positions [oh, oh + rows) x [ow, ow + columns) of images [n, n + images)
struct Block {
  int64_t n, images, oh, rows, ow, columns;
};

// One row of a plane: columns (ow + x) stride + phase - pad of row h of image n
void fill_row(const ConvPlan& p, const Block& b, int64_t n, int64_t h, int64_t phase, int8_t* to) {
  const ConvGeometry& g = p.geometry;
  const int64_t width = b.columns + p.tiles.reach_w;
  int64_t begin = width, end = width;
  if (h >= 0 && h < g.H) {
    const int64_t w = b.ow * g.stride_w + phase - g.pad_w;
    begin = w >= 0 ? 0 : std::min(width, ceil_div(-w, g.stride_w));
    end = w >= g.W ? begin : std::clamp(ceil_div(g.W - w, g.stride_w), begin, width);
    const uint64_t* from = p.x + ((n * g.H + h) * g.W + w + begin * g.stride_w) * g.L();
    ukernels().expand_pixels(from, g.stride_w * g.L(), end - begin, g.C, to + begin * g.C);
  }
  std::memset(to, g.pad_value, static_cast<size_t>(begin * g.C));
  std::memset(to + end * g.C, g.pad_value, static_cast<size_t>((width - end) * g.C));
}

void fill_block(const ConvPlan& p, const Block& b, int8_t* bytes) {
  const ConvGeometry& g = p.geometry;
  const TilePlan& t = p.tiles;
  for (int64_t n = b.n; n < b.n + b.images; ++n) {
    for (int64_t phase_h : t.phases_h) {
      for (int64_t phase_w : t.phases_w) {
        for (int64_t y = 0; y < b.rows + t.reach_h; ++y) {
          const int64_t h = (b.oh + y) * g.stride_h + phase_h - g.pad_h;
          fill_row(p, b, n, h, phase_w, bytes + y * t.pitch() * g.C);
        }
        bytes += t.plane() * g.C;
      }
    }
  }
}

// Tiles of a block in order: where each begins, and how many of its rows count.
class Tiles {
 public:
  Tiles(const TilePlan& t, const Block& b)
      : t_(t),
        run_((b.rows - 1) * t.pitch() + b.columns),
        columns_(b.columns),
        a_row_(ceil_div(b.columns, t.rows)),
        an_image_(t.within_rows ? b.rows * a_row_ : ceil_div(run_, t.rows)) {}

  int64_t count(const Block& b) const { return b.images * an_image_; }

  struct Tile {
    int64_t image, position, rows;  // position row * pitch + column
  };

  Tile operator[](int64_t i) const {
    const int64_t image = i / an_image_, j = i % an_image_;
    if (t_.within_rows) {
      const int64_t column = j % a_row_ * t_.rows;
      return {image, j / a_row_ * t_.pitch() + column, std::min<int64_t>(t_.rows, columns_ - column)};
    }
    return {image, j * t_.rows, std::min<int64_t>(t_.rows, run_ - j * t_.rows)};
  }

 private:
  const TilePlan& t_;
  int64_t run_, columns_, a_row_, an_image_;
};

// Runs of output pixels to the epilogue, neighbours together
class Writer {
 public:
  Writer(const ConvPlan& p, int64_t begin, int64_t end, const int32_t* dot)
      : p_(p), begin_(begin), end_(end), dot_(dot) {}
  ~Writer() { flush(); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  void add(int64_t row, int64_t pixel, int64_t count) {
    const int64_t before = std::max<int64_t>(0, begin_ - pixel);
    row += before, pixel += before, count = std::min(count - before, end_ - pixel);
    if (count <= 0) return;
    if (row != row_ + count_ || pixel != pixel_ + count_) {
      flush();
      row_ = row, pixel_ = pixel, count_ = 0;
    }
    count_ += count;
  }

 private:
  void flush() {
    if (count_ > 0) store_rows(p_.epilogue, dot_ + row_ * p_.ld, p_.ld, pixel_, count_);
  }

  const ConvPlan& p_;
  int64_t begin_, end_;
  const int32_t* dot_;
  int64_t row_ = 0, pixel_ = 0, count_ = 0;
};

void add_tile(const ConvPlan& p, const Block& b, const Tiles::Tile& tile, int64_t row, Writer& writer) {
  const ConvGeometry& g = p.geometry;
  const int64_t pitch = p.tiles.pitch();
  int64_t y = tile.position / pitch, x = tile.position % pitch;
  for (int64_t i = 0; i < tile.rows;) {
    const int64_t pixels = std::min(tile.rows - i, b.columns - x);
    if (pixels > 0) writer.add(row + i, ((b.n + tile.image) * g.OH + b.oh + y) * g.OW + b.ow + x, pixels);
    i += pitch - x;  // to the next row's begin
    x = 0, ++y;
  }
}

// A thread's scratch
struct Workspace {
  int8_t* bytes;    // of a block
  int8_t* panel;    // of filters
  int32_t* dot;     // [job * rows, ld]
  int64_t* starts;  // [job]
};

Workspace workspace(const ConvPlan& p, uint64_t* scratch) {
  uint64_t* panel = scratch + block_words(p);
  uint64_t* dot = panel + buffer_words(p);
  return {reinterpret_cast<int8_t*>(scratch), reinterpret_cast<int8_t*>(panel), reinterpret_cast<int32_t*>(dot),
          reinterpret_cast<int64_t*>(dot + job_words(p))};
}

// Groups ascend: what a group's last panel writes beyond its filters is overwritten by the next group.
void multiply(const ConvPlan& p, int64_t tiles, const Workspace& w) {
  const ConvGeometry& g = p.geometry;
  const TilePlan& t = p.tiles;
  for (int64_t group = 0; group < g.G; ++group) {
    const int64_t panel = group * p.group_panels;
    TileProducts job{
        w.bytes + group * g.Cg(), w.starts, tiles, t.rows, g.C, t.offsets.data(), t.steps(), p.group_panels, w.panel,
        w.dot + group * g.Kg(),   p.ld};
    const FilterWords filters = filter_words(p, panel, p.group_panels, p.panels + panel * kPanel * t.steps());
    if (t.expand_once) {
      job.panels = reinterpret_cast<int8_t*>(p.panels) + panel * t.steps() * kTileBytes;
    } else {
      job.filters = &filters;
      job.wrap = whole_panel(p) ? -1 : kRing - 1;
      job.weave = t.weave;
    }
    ukernels().tile_products(job);
  }
}

void run_block(const ConvPlan& p, const Block& b, int64_t begin, int64_t end, const Workspace& w) {
  const TilePlan& t = p.tiles;
  fill_block(p, b, w.bytes);
  const Tiles tiles(t, b);
  const int64_t count = tiles.count(b);
  for (int64_t first = 0; first < count; first += t.job) {
    const int64_t some = std::min(t.job, count - first);
    for (int64_t i = 0; i < some; ++i) {
      const Tiles::Tile tile = tiles[first + i];
      w.starts[i] = (tile.image * t.planes() * t.plane() + tile.position) * p.geometry.C;
    }
    multiply(p, some, w);
    Writer writer(p, begin, end, w.dot);
    for (int64_t i = 0; i < some; ++i) add_tile(p, b, tiles[first + i], i * t.rows, writer);
  }
}

}  // namespace

int64_t tile_panels_words(const ConvPlan& p) {
  const int64_t tiles = group_count(p) * p.tiles.steps();
  return p.tiles.expand_once ? tiles * kTileBytes / 8 : words_as_they_are(p) ? 0 : tiles * kPanel;
}

int64_t tile_scratch_words(const ConvPlan& p) {
  return std::max(block_words(p) + buffer_words(p) + job_words(p) + p.tiles.job, p.tiles.steps() * kPanel);
}

void prepare_tiles(const ConvPlan& p, int64_t panel, uint64_t* scratch) {
  if (!p.tiles.expand_once && words_as_they_are(p)) return;
  const int64_t steps = p.tiles.steps();
  uint64_t* packed = p.tiles.expand_once ? scratch : p.panels + panel * kPanel * steps;
  if (!words_as_they_are(p)) pack_rows(p, panel, packed);
  if (!p.tiles.expand_once) return;
  ukernels().expand_filters(filter_words(p, panel, 1, packed),
                            reinterpret_cast<int8_t*>(p.panels) + panel * steps * kTileBytes);
}

void tile_conv(const ConvPlan& p, int64_t begin, int64_t end, uint64_t* scratch) {
  const ConvGeometry& g = p.geometry;
  const TilePlan& t = p.tiles;
  const Workspace w = workspace(p, scratch);
  const int64_t last = ceil_div(end, g.OW);
  ukernels().tile_rows(t.rows);
  for (int64_t row = begin / g.OW; row < last;) {  // of [N * OH]
    const int64_t oh = row % g.OH, whole = oh == 0 ? std::min(t.images, (last - row) / g.OH) : 0;
    Block b{row / g.OH, std::max<int64_t>(1, whole), oh, 0, 0, g.OW};
    b.rows = whole > 0 ? std::min(t.out_rows, g.OH) : std::min({t.out_rows, g.OH - oh, last - row});
    if (b.rows < g.OH) b.images = 1;
    const bool alone = begin >= row * g.OW && end <= (row + 1) * g.OW;  // part of one row
    const int64_t left = alone ? begin - row * g.OW : 0, right = alone ? end - row * g.OW : g.OW;
    for (b.ow = left; b.ow < right; b.ow += t.out_columns) {
      b.columns = std::min(t.out_columns, right - b.ow);
      run_block(p, b, begin, end, w);
    }
    row += b.images * b.rows;
  }
  ukernels().tile_rows(0);
}

}  // namespace bnn::cpu
