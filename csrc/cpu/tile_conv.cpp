#include "cpu/tile_conv.h"

#include <algorithm>
#include <cstring>

#include "bnn/epilogue.h"
#include "cpu/tile_filters.h"
#include "cpu/ukernels.h"

namespace bnn::cpu {
namespace {

// Tiles may read pixels past the last one, a step bytes past the last channel.
int64_t block_pixels(const ConvPlan& p) { return p.tiles.block() + kTileRows; }

// Tiles that may be multiplied at once by a group's panels
int64_t job_tiles(const ConvPlan& p, int64_t group) {
  const TilePlan& t = p.tiles;
  if (t.job <= kJobTiles) return t.job;
  for (int64_t i = group * p.chunks; i < (group + 1) * p.chunks; ++i) {
    const uint8_t* groups = packed_panel(p, i).groups;
    const int64_t first = group_end(groups, 0, t.steps());
    if (first < t.steps() && group_end(groups, first, t.steps()) < t.steps()) return kJobTiles;
  }
  return t.job;
}

// Output positions [oh, oh + rows) x [ow, ow + columns) of images [n, n + images)
struct Block {
  int64_t n, images, oh, rows, ow, columns;
};

// Where the columns of a plane lie: x of [begin, end) is column first + x stride of the image, the others are outside.
struct PlaneColumns {
  int64_t first, begin, end, width;

  PlaneColumns(const ConvGeometry& g, const TilePlan& t, const Block& b, int64_t phase)
      : first(b.ow * g.stride_w + phase - g.pad_w), width(b.columns + t.reach_w) {
    begin = first >= 0 ? 0 : std::min(width, ceil_div(-first, g.stride_w));
    end = first >= g.W ? begin : std::clamp(ceil_div(g.W - first, g.stride_w), begin, width);
  }
};

// Row h of image n as bytes
void fill_row(const ConvPlan& p, const PlaneColumns& columns, int64_t n, int64_t h, uint8_t* to, int16_t* ones) {
  const ConvGeometry& g = p.geometry;
  const bool inside = h >= 0 && h < g.H;
  const int64_t begin = inside ? columns.begin : columns.width, end = inside ? columns.end : columns.width;
  if (begin < end) {
    const uint64_t* from = p.x + ((n * g.H + h) * g.W + columns.first + begin * g.stride_w) * g.L();
    ukernels().expand_pixels(from, g.stride_w * g.L(), end - begin, g.C, to + begin * g.C, ones + begin);
  }
  const int outside = g.pad_value < 0 ? 1 : 0;
  const auto outside_ones = static_cast<int16_t>(outside * g.C);
  std::memset(to, outside, static_cast<size_t>(begin * g.C));
  std::memset(to + end * g.C, outside, static_cast<size_t>((columns.width - end) * g.C));
  std::fill(ones, ones + begin, outside_ones);
  std::fill(ones + end, ones + columns.width, outside_ones);
}

void fill_block(const ConvPlan& p, const Block& b, uint8_t* bytes, int16_t* ones) {
  const ConvGeometry& g = p.geometry;
  const TilePlan& t = p.tiles;
  for (int64_t n = b.n; n < b.n + b.images; ++n) {
    for (int64_t phase_h : t.phases_h) {
      for (int64_t phase_w : t.phases_w) {
        const PlaneColumns columns(g, t, b, phase_w);
        for (int64_t y = 0; y < b.rows + t.reach_h; ++y) {
          const int64_t h = (b.oh + y) * g.stride_h + phase_h - g.pad_h;
          fill_row(p, columns, n, h, bytes + y * t.pitch() * g.C, ones + y * t.pitch());
        }
        bytes += t.plane() * g.C;
        ones += t.plane();
      }
    }
  }
}

// ones [pixels] of a group alone
void count_group(const ConvPlan& p, int64_t pixels, const uint8_t* bytes, int16_t* ones) {
  const ConvGeometry& g = p.geometry;
  for (int64_t i = 0; i < pixels; ++i, bytes += g.C) {
    int count = 0;
    for (int64_t c = 0; c < g.Cg(); ++c) count += bytes[c];
    ones[i] = static_cast<int16_t>(count);
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

struct Workspace {
  uint8_t* bytes;                          // of a block
  int16_t* ones;                           // of its pixels
  int32_t *row_base, *row_add, *row_word;  // see TileProducts
  int16_t* dot;                            // see TileProducts
  int64_t* starts;                         // [job]

  Workspace(const ConvPlan& p, Parts& parts) {
    const TilePlan& t = p.tiles;
    bytes = parts.take<uint8_t>(block_pixels(p) * p.geometry.C + kWordBits);
    ones = parts.take<int16_t>(block_pixels(p) + kTogether);
    row_base = parts.take<int32_t>(block_pixels(p));
    row_add = parts.take<int32_t>(block_pixels(p) + kTogether);
    row_word = parts.take<int32_t>(block_pixels(p));
    dot = parts.take<int16_t>(kTilesTogether * kTileRows * kWordBits);
    starts = parts.take<int64_t>(t.job);
  }
};

// -2 times the ones of the pixels that each position meets
void add_ones(const ConvPlan& p, const Block& b, const Workspace& w) {
  const TilePlan& t = p.tiles;
  for (int64_t n = 0; n < b.images; ++n) {
    const int64_t first = n * t.image();
    ukernels().count_window(w.ones + first, t.taps.data(), p.geometry.taps(), t.run(), w.row_add + first);
  }
}

// The border class of each position, any one where nobody reads it
void find_classes(const ConvPlan& p, const Block& b, const Workspace& w) {
  const TilePlan& t = p.tiles;
  int32_t* to = w.row_base;
  if (!p.border_sums) {
    std::fill_n(to, block_pixels(p), 0);
    return;
  }
  const int32_t* column = p.columns.of.data() + b.ow;
  for (int64_t y = 0; y < b.rows; ++y) {
    const auto first = static_cast<int32_t>(p.rows.of[b.oh + y] * p.columns.size());
    for (int64_t x = 0; x < b.columns; ++x) *to++ = (first + column[x]) * static_cast<int32_t>(kWordBits);
    to = std::fill_n(to, t.pitch() - b.columns, 0);
  }
  const int64_t image = t.image(), count = b.rows * t.pitch();
  for (int64_t n = 0; n < b.images; ++n) {
    to = w.row_base + n * image;
    if (n > 0) std::copy_n(w.row_base, count, to);
    std::fill_n(to + count, kTileRows, 0);
  }
}

// Where the words of each position's output pixel are behind those of pixel `origin`, for pixels [begin, end)
void find_words(const ConvPlan& p, const Block& b, int64_t origin, int64_t begin, int64_t end, const Workspace& w) {
  const ConvGeometry& g = p.geometry;
  const TilePlan& t = p.tiles;
  const auto step = static_cast<int32_t>(2 * words_for(g.K));
  for (int64_t n = 0; n < b.images; ++n) {
    int32_t* to = w.row_word + n * t.image();
    for (int64_t y = 0; y < b.rows; ++y) {
      const int64_t first = ((b.n + n) * g.OH + b.oh + y) * g.OW + b.ow;
      const int64_t from = std::clamp<int64_t>(begin - first, 0, b.columns);
      const int64_t until = std::clamp<int64_t>(end - first, from, b.columns);
      auto word = static_cast<int32_t>(first + from - origin) * step;
      std::fill(to, to + from, -1);
      for (int64_t x = from; x < until; ++x, word += step) to[x] = word;
      std::fill(to + until, to + t.pitch(), -1);
      to += t.pitch();
    }
    std::fill_n(to, kTileRows, -1);
  }
}

// Dot products of a few tiles and a panel of filters on their way to the epilogue: runs of output pixels of [begin,
// end), neighbours together.
class Writer {
 public:
  Writer(const ConvPlan& p, const Block& b, const Tiles& tiles, const Workspace& w, int64_t begin, int64_t end)
      : p_(p), b_(b), tiles_(tiles), dot_(w.dot), begin_(begin), end_(end) {}

  // Tiles of a job from tile `first` of the block on, filters of a group
  void* job(int64_t first, int64_t group) {
    first_ = first, group_ = group;
    return this;
  }

  static void finished(void* writer, int64_t panel, int64_t tile, int64_t count) {
    static_cast<Writer*>(writer)->write(panel, tile, count);
  }

 private:
  void write(int64_t panel, int64_t tile, int64_t count) {
    const ConvGeometry& g = p_.geometry;
    const int64_t in_group = panel * kWordBits;
    channel_ = group_ * g.Kg() + in_group, channels_ = std::min<int64_t>(kWordBits, g.Kg() - in_group);
    for (int64_t i = 0; i < count; ++i) add_tile(tiles_[first_ + tile + i], i * p_.tiles.rows);
    flush();
  }

  void add_tile(const Tiles::Tile& tile, int64_t row) {
    const ConvGeometry& g = p_.geometry;
    const int64_t pitch = p_.tiles.pitch();
    int64_t y = tile.position / pitch, x = tile.position % pitch;
    for (int64_t i = 0; i < tile.rows;) {
      const int64_t pixels = std::min(tile.rows - i, b_.columns - x);
      if (pixels > 0) add(row + i, ((b_.n + tile.image) * g.OH + b_.oh + y) * g.OW + b_.ow + x, pixels);
      i += pitch - x;  // to the next row's begin
      x = 0, ++y;
    }
  }

  void add(int64_t row, int64_t pixel, int64_t count) {
    const int64_t before = std::max<int64_t>(0, begin_ - pixel);
    row += before, pixel += before, count = std::min(count - before, end_ - pixel);
    if (count <= 0) return;
    if (row != row_ + count_ || pixel != pixel_ + count_) {
      flush();
      row_ = row, pixel_ = pixel;
    }
    count_ += count;
  }

  void flush() {
    const Dots dots{.narrow = dot_ + row_ * kWordBits, .ld = kWordBits};
    if (count_ > 0) store_rows(p_.epilogue, dots, {pixel_, count_, channel_, channels_});
    count_ = 0;
  }

  const ConvPlan& p_;
  const Block& b_;
  const Tiles& tiles_;
  const int16_t* dot_;
  int64_t begin_, end_;
  int64_t first_ = 0, group_ = 0, channel_ = 0, channels_ = 0;
  int64_t row_ = 0, pixel_ = 0, count_ = 0;
};

void run_block(const ConvPlan& p, const Block& b, int64_t begin, int64_t end, const Workspace& w) {
  const ConvGeometry& g = p.geometry;
  const TilePlan& t = p.tiles;
  fill_block(p, b, w.bytes, w.ones);
  find_classes(p, b, w);
  const int64_t origin = (b.n * g.OH + b.oh) * g.OW + b.ow;
  if (any_limited(p)) find_words(p, b, origin, begin, end, w);
  const Tiles tiles(t, b);
  Writer writer(p, b, tiles, w, begin, end);
  const int64_t count = tiles.count(b);
  for (int64_t group = 0; group < g.G; ++group) {
    if (g.G > 1) count_group(p, block_pixels(p), w.bytes + group * g.Cg(), w.ones);
    add_ones(p, b, w);
    auto* words = reinterpret_cast<uint32_t*>(p.epilogue.words) + origin * 2 * words_for(g.K) + group * g.Kg() / 32;
    const int64_t job = job_tiles(p, group);
    for (int64_t first = 0; first < count; first += job) {
      const int64_t some = std::min(job, count - first);
      for (int64_t i = 0; i < some; ++i) {
        const Tiles::Tile tile = tiles[first + i];
        w.starts[i] = tile.image * t.image() + tile.position;
      }
      const PackedPanel packed = packed_panel(p, group * p.chunks);
      const TileBounds bounds = bounds_of_panel(p, group * p.chunks);
      ukernels().tile_products({w.bytes + group * g.Cg(),
                                w.starts,
                                some,
                                t.rows,
                                g.C,
                                t.offsets.data(),
                                w.row_base,
                                w.row_add,
                                w.row_word,
                                t.steps(),
                                g.Kg(),
                                {packed.codes, packed.groups, bounds.base, bounds.limited, bounds.falling},
                                packed_bytes(p),
                                TileBounds::bytes(p),
                                w.dot,
                                Writer::finished,
                                writer.job(first, group),
                                words});
    }
  }
}

}  // namespace

int64_t tile_scratch_words(const ConvPlan& p) {
  Parts work;
  static_cast<void>(Workspace(p, work));
  return std::max(work.bytes(), packing_bytes(p)) / 8;
}

void tile_conv(const ConvPlan& p, int64_t begin, int64_t end, uint64_t* scratch) {
  const ConvGeometry& g = p.geometry;
  const TilePlan& t = p.tiles;
  Parts parts(scratch);
  const Workspace w(p, parts);
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
