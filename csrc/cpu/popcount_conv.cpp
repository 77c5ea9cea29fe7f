#include "cpu/popcount_conv.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "bnn/epilogue.h"
#include "cpu/conv_rows.h"
#include "cpu/filter_bounds.h"
#include "cpu/ukernels.h"

namespace bnn::cpu {
namespace {

constexpr int64_t kStripBytes = 24 * 1024;  // what a strip of pixels has in scratch stays in L1 beside one panel
constexpr int64_t kChunkPanels = kWordBits / kPanel;

int64_t chunk_count(const ConvPlan& p) { return p.geometry.G * p.chunks; }

// Whether chunks are whole words of output channels, but for the last
bool chunks_are_words(const ConvGeometry& g) { return g.G == 1 || g.Kg() % kWordBits == 0; }

// base where limited: the most mismatches with a bit of 0.
using PopcountBounds = Bounds<int32_t>;

// Up to 64 filters of a group, the same for every size of images
struct PackedChunk {
  uint64_t* panels;  // [4, row_words, 16]
  int32_t* ones;     // [taps, 64] of each filter; null without border sums

  PackedChunk(const ConvPlan& p, Parts& parts)
      : panels(parts.take<uint64_t>(kWordBits * p.row_words)),
        ones(p.border_sums ? parts.take<int32_t>(p.geometry.taps() * kWordBits) : nullptr) {}

  static int64_t bytes(const ConvPlan& p) {
    Parts parts;
    static_cast<void>(PackedChunk(p, parts));
    return parts.bytes();
  }
};

PackedChunk packed_at(const ConvPlan& p, void* packed, int64_t chunk) {
  Parts parts(static_cast<uint8_t*>(packed) + chunk * PackedChunk::bytes(p));
  return {p, parts};
}

// Nobody writes to filters that were packed before.
PackedChunk packed_chunk(const ConvPlan& p, int64_t chunk) {
  const uint64_t* before = p.packed.words;
  return packed_at(p, before == nullptr ? p.panels : const_cast<uint64_t*>(before), chunk);
}

PopcountBounds bounds_of_chunk(const ConvPlan& p, int64_t chunk) {
  const int64_t before = p.packed.words == nullptr ? chunk_count(p) * PackedChunk::bytes(p) : 0;
  Parts parts(reinterpret_cast<uint8_t*>(p.panels) + before + chunk * PopcountBounds::bytes(p));
  return {p, parts};
}

// Filters [first, first + count)
struct ChunkFilters {
  int64_t first, count;

  ChunkFilters(const ConvPlan& p, int64_t chunk) {
    const ConvGeometry& g = p.geometry;
    const int64_t in_group = chunk % p.chunks * kWordBits;
    first = chunk / p.chunks * g.Kg() + in_group;
    count = std::min<int64_t>(kWordBits, g.Kg() - in_group);
  }

  int64_t panels() const { return ceil_div(count, kPanel); }
};

// Scratch to pack a chunk
struct Packing {
  uint64_t* rows;     // [16, row_words]; also all +1, for sums of taps
  int32_t* tap_sums;  // [64, taps]

  Packing(const ConvPlan& p, Parts& parts)
      : rows(parts.take<uint64_t>(kPanel * p.row_words)),
        tap_sums(parts.take<int32_t>(kWordBits * p.geometry.taps())) {}
};

// out[j][lane] = rows[lane][j]
void interleave(const uint64_t* const (&rows)[kPanel], int64_t words, uint64_t* out) {
  for (int64_t j = 0; j < words; ++j, out += kPanel) {
#pragma GCC unroll 16
    for (int lane = 0; lane < kPanel; ++lane) out[lane] = rows[lane][j];
  }
}

// ones [taps, 64] of filters; those that are missing to 64 have none
void count_ones(const ConvPlan& p, const uint64_t* filters, int64_t count, const Packing& w, int32_t* ones) {
  const ConvGeometry& g = p.geometry;
  const int64_t taps = g.taps();
  const auto channels = static_cast<int32_t>(g.Cg());
  // Against all +1 the dot product of a tap is its sum.
  std::fill_n(w.rows, g.Lg(), uint64_t{0});
  ukernels().bgemv(w.rows, filters, g.Lg(), count * taps, channels, w.tap_sums);
  for (int64_t t = 0; t < taps; ++t, ones += kWordBits) {
    for (int64_t k = 0; k < count; ++k) ones[k] = (channels - w.tap_sums[k * taps + t]) / 2;
    std::fill(ones + count, ones + kWordBits, 0);
  }
}

// counts: ones, too
void pack_chunk(const ConvPlan& p, int64_t chunk, bool counts, const PackedChunk& to, uint64_t* scratch) {
  const ConvGeometry& g = p.geometry;
  const ChunkFilters filters(p, chunk);
  const int64_t filter_words = g.taps() * g.Lg();
  Parts parts(scratch);
  const Packing w(p, parts);
  for (int64_t panel = 0; panel < filters.panels(); ++panel) {
    const uint64_t* rows[kPanel];
    for (int64_t lane = 0; lane < kPanel; ++lane) {
      const int64_t k = panel * kPanel + lane;
      const uint64_t* filter = p.weight + (filters.first + k) * filter_words;
      uint64_t* packed = w.rows + lane * p.row_words;
      rows[lane] = packed;
      if (k >= filters.count) {
        std::fill_n(packed, p.row_words, uint64_t{0});
      } else if (g.Cg() % kWordBits == 0) {
        rows[lane] = filter;
      } else {
        pack_filter(p, filter, g.taps(), packed);
      }
    }
    interleave(rows, p.row_words, to.panels + panel * p.row_words * kPanel);
  }
  if (to.ones != nullptr && counts) count_ones(p, p.weight + filters.first * filter_words, filters.count, w, to.ones);
}

// Taps that pixels of class i meet, where they are skipped outside; else all
struct Met {
  TapRange rows, columns;

  Met(const ConvPlan& p, int64_t i)
      : rows(p.skips ? p.rows.inside[i / p.columns.size()] : TapRange{0, p.geometry.R}),
        columns(p.skips ? p.columns.inside[i % p.columns.size()] : TapRange{0, p.geometry.S}) {}

  int64_t taps() const { return (rows.end - rows.begin) * (columns.end - columns.begin); }
};

// base [classes, 64]: where a dot product begins from which 2 mismatches are taken. Taps outside that are met count as
// +1, and the sum of w over them is taken off.
void fill_base(const ConvPlan& p, const PackedChunk& packed, int32_t* base) {
  if (p.skips || !p.border_sums) {
    for (int64_t i = 0; i < class_count(p); ++i, base += kWordBits) {
      std::fill_n(base, kWordBits, static_cast<int32_t>(Met(p, i).taps() * p.geometry.Cg()));
    }
    return;
  }
  sum_inside(p, packed.ones, base);
  uint32_t rest[kWordBits] = {};  // bits - sum of w over all taps; unsigned: filters from before may hold anything
  const int32_t* ones = packed.ones;
  for (int64_t t = 0; t < p.geometry.taps(); ++t, ones += kWordBits) {
    for (int k = 0; k < kWordBits; ++k) rest[k] += 2 * static_cast<uint32_t>(ones[k]);
  }
  for (int64_t i = 0; i < class_count(p); ++i, base += kWordBits) {
    for (int k = 0; k < kWordBits; ++k) base[k] = static_cast<int32_t>(static_cast<uint32_t>(base[k]) + rest[k]);
  }
}

// Where a chunk's words alone are asked for: base becomes the most mismatches with a bit of 0, as
// base - 2 mismatches < limit where mismatches > floor((base - limit) / 2).
void limit_base(const ConvPlan& p, const ChunkFilters& filters, const PopcountBounds& to) {
  int32_t limits[kWordBits];
  const bool may = chunks_are_words(p.geometry);
  *to.limited = may && ukernels().sign_limits(p.epilogue, filters.first, limits, to.falling);
  if (*to.limited == 0) return;
  int32_t* base = to.base;
  for (int64_t i = 0; i < class_count(p); ++i, base += kWordBits) {
    for (int k = 0; k < kWordBits; ++k) {
      base[k] = static_cast<int32_t>(static_cast<uint32_t>(base[k]) - static_cast<uint32_t>(limits[k])) >> 1;
    }
    std::fill(base + filters.count, base + kWordBits, std::numeric_limits<int32_t>::max());  // tail bits are 0
  }
}

// Pixels of a group meet the same taps.
int64_t group_count(const ConvPlan& p) { return p.skips ? class_count(p) : 1; }

struct Workspace {
  int64_t* begins;           // [groups + 1] of a group's pixels below
  int64_t* next;             // [groups]
  const uint64_t** windows;  // [strip] see PanelProducts
  int32_t* rows;             // [strip] see PanelProducts
  int32_t* row_base;         // [strip] see PanelProducts
  int32_t* dot;              // [strip, ld]
  uint64_t* gathered;        // [strip, row_words] and slack

  Workspace(const ConvPlan& p, Parts& parts)
      : begins(parts.take<int64_t>(group_count(p) + 1)),
        next(parts.take<int64_t>(group_count(p))),
        windows(parts.take<const uint64_t*>(p.strip)),
        rows(parts.take<int32_t>(p.strip)),
        row_base(parts.take<int32_t>(p.strip)),
        dot(parts.take<int32_t>(p.strip * p.ld)),
        gathered(parts.take<uint64_t>(p.gathered ? p.strip * p.row_words + kCopySlack / 8 : 0)) {}
};

// Strip of output pixels [first, first + count) on its way through all filters
class Strip {
 public:
  Strip(const ConvPlan& p, const Workspace& w, int64_t first, int64_t count)
      : p_(p), w_(w), by_chunks_(chunks_are_words(p.geometry)), first_(first), count_(count) {
    const ConvGeometry& g = p.geometry;
    find_groups();
    find_windows();
    products_.step = g.dilation_h * (g.W + (p.copied ? 2 * g.pad_w : 0)) * g.L();
    products_.bits_step = words_for(g.K) * 8;
    products_.ld = p.ld;
  }

  void run() {
    for (int64_t chunk = 0; chunk < chunk_count(p_); ++chunk) {
      if (p_.gathered && chunk % p_.chunks == 0) {
        gather_windows(p_, chunk / p_.chunks, first_, count_, w_.gathered);
      }
      multiply(chunk);
    }
    if (!by_chunks_) store(0, p_.geometry.K);
  }

 private:
  // Neighbours in a row of one class: f(class, image n, row oh, first column ow, count)
  template <class F>
  void for_each_class(F&& f) const {
    const auto piece = [&](int64_t n, int64_t oh, int64_t ow, int64_t count) {
      f(p_.border_sums ? p_.rows.of[oh] * p_.columns.size() + p_.columns.of[ow] : int64_t{0}, n, oh, ow, count);
    };
    p_.border_sums ? for_each_piece(p_, first_, count_, piece) : for_each_run(p_.geometry, first_, count_, piece);
  }

  void find_groups() {
    const int64_t groups = group_count(p_);
    std::fill_n(w_.begins, groups + 1, 0);
    if (p_.skips) {
      for_each_class([&](int64_t i, int64_t, int64_t, int64_t, int64_t count) { w_.begins[i + 1] += count; });
      for (int64_t i = 0; i < groups; ++i) w_.begins[i + 1] += w_.begins[i];
    } else {
      w_.begins[1] = count_;
    }
    std::copy_n(w_.begins, groups, w_.next);
    for (int64_t i = 0, most = 0; i < groups; ++i) {
      const int64_t pixels = w_.begins[i + 1] - w_.begins[i];
      if (pixels > most) most = pixels, largest_group_ = i;
    }
  }

  void find_windows() {
    const ConvGeometry& g = p_.geometry;
    int32_t row = 0;
    for_each_class([&](int64_t i, int64_t n, int64_t oh, int64_t ow, int64_t count) {
      const Met met(p_, i);
      const int64_t skipped = met.rows.begin * g.dilation_h * g.W + met.columns.begin * g.dilation_w;
      const auto* corner = reinterpret_cast<const uint64_t*>(window_corner(p_, n, oh, ow)) + skipped * g.L();
      const uint64_t* window = p_.gathered ? w_.gathered + row * p_.row_words : corner;
      const int64_t step = p_.gathered ? p_.row_words : g.stride_w * g.L();
      int64_t& at = w_.next[p_.skips ? i : 0];
      const uint64_t** windows = w_.windows + at;
      if (p_.skips) {
        std::iota(w_.rows + at, w_.rows + at + count, row);
      } else {
        std::fill_n(w_.row_base + at, count, static_cast<int32_t>(i * kWordBits));
      }
      for (int64_t k = 0; k < count; ++k, window += step) windows[k] = window;
      at += count, row += static_cast<int32_t>(count);
    });
  }

  void multiply(int64_t chunk) {
    const ChunkFilters filters(p_, chunk);
    const PackedChunk packed = packed_chunk(p_, chunk);
    const PopcountBounds bounds = bounds_of_chunk(p_, chunk);
    const bool limited = *bounds.limited != 0;
    auto* words = reinterpret_cast<uint8_t*>(p_.epilogue.words) + first_ * products_.bits_step + filters.first / 8;
    if (limited && filters.panels() < kChunkPanels) {
      for (int64_t p = 0; p < count_; ++p) std::memset(words + p * products_.bits_step, 0, 8);
    }
    // Groups ascend: what a group's last panel writes beyond its filters is overwritten by the next group.
    int32_t* dot = w_.dot + (by_chunks_ ? 0 : filters.first);
    for (int64_t panel = 0; panel < filters.panels(); ++panel) {
      const int64_t column = panel * kPanel;
      products_.dot = dot + column;
      products_.next_panel = p_.row_words * kPanel;
      if (panel + 1 == filters.panels()) {
        const bool last = chunk + 1 == chunk_count(p_);
        products_.next_panel = last ? 0 : PackedChunk::bytes(p_) / 8 - column * p_.row_words;
      }
      products_.bits = limited ? words + column / 8 : nullptr;
      products_.falling = limited ? static_cast<uint16_t>(*bounds.falling >> column) : 0;
      multiply(packed.panels + column * p_.row_words, bounds.base + column);
    }
    if (by_chunks_ && !limited) store(filters.first, filters.count);
  }

  void multiply(const uint64_t* panel, const int32_t* base) {
    const ConvGeometry& g = p_.geometry;
    const int64_t groups = group_count(p_);
    for (int64_t k = 0, i = largest_group_; k < groups; ++k, i = i + 1 < groups ? i + 1 : 0) {
      const int64_t begin = w_.begins[i], end = w_.begins[i + 1];
      if (begin == end) continue;
      products_.windows = w_.windows + begin;
      products_.rows = p_.skips ? w_.rows + begin : nullptr;
      products_.row_base = w_.row_base;
      products_.pixels = end - begin;
      products_.base = base + i * kWordBits;
      if (p_.gathered) {
        products_.runs = 1;
        products_.run = products_.panel_step = p_.row_words;
        products_.panel = panel;
      } else {
        const Met met(p_, i);
        products_.runs = met.taps() > 0 ? met.rows.end - met.rows.begin : 0;
        products_.run = (met.columns.end - met.columns.begin) * g.L();
        products_.panel_step = g.S * g.L();
        products_.panel = panel + (met.rows.begin * g.S + met.columns.begin) * g.L() * kPanel;
      }
      ukernels().bgemm(products_);
    }
  }

  void store(int64_t channel, int64_t channels) {
    store_rows(p_.epilogue, {.wide = w_.dot, .ld = p_.ld}, {first_, count_, channel, channels});
  }

  const ConvPlan& p_;
  const Workspace& w_;
  bool by_chunks_;
  int64_t first_, count_;
  int64_t largest_group_ = 0;  // goes first: its products hide that the panel comes from afar
  PanelProducts products_{};
};

// Taps of all positions on an axis that lie inside
int64_t taps_inside_of(const BorderClasses& classes) {
  int64_t sum = 0;
  for (const int32_t i : classes.of) sum += classes.inside[i].end - classes.inside[i].begin;
  return sum;
}

// Groups of a few pixels cost more than a few products.
bool worth_skipping(const ConvPlan& p) {
  constexpr double kWorthwhile = 0.04;
  const ConvGeometry& g = p.geometry;
  const double inside = static_cast<double>(taps_inside_of(p.rows)) * static_cast<double>(taps_inside_of(p.columns));
  return inside < (1 - kWorthwhile) * static_cast<double>(g.OH * g.OW) * static_cast<double>(g.taps());
}

}  // namespace

void plan_popcount(ConvPlan& p) {
  const ConvGeometry& g = p.geometry;
  p.row_words = words_for(g.bits());
  p.chunks = ceil_div(g.Kg(), kWordBits);
  p.ld = chunks_are_words(g) ? kWordBits : ceil_div(g.K, kPanel) * kPanel + kPanel;
  const bool whole = g.C % kWordBits == 0 && (g.dilation_w == 1 || g.S == 1);
  p.gathered = !(g.G == 1 && (whole || (g.taps() == 1 && !g.padded())));
  p.skips = !p.gathered && p.border_sums && worth_skipping(p);
  p.copied = p.gathered || (g.padded() && !p.skips);
  p.pixel_bytes = p.gathered && g.Cg() % 8 == 0 ? g.C / 8 : g.L() * 8;
  const bool words_alone = p.epilogue.words != nullptr && !p.epilogue.stream && chunks_are_words(g);
  const int64_t dots = words_alone ? 0 : p.ld * 4;  // few are stored, if any
  const int64_t bytes = (p.gathered ? p.row_words * 8 : 0) + dots + 24;
  p.strip = std::clamp<int64_t>(kStripBytes / bytes / 8 * 8, 8, 256);
}

int64_t popcount_packed_words(const ConvPlan& p) { return chunk_count(p) * PackedChunk::bytes(p) / 8; }

void pack_popcount(const ConvPlan& p, uint64_t* packed) {
  Parts parts;
  static_cast<void>(Packing(p, parts));
  std::vector<uint64_t> scratch(static_cast<size_t>(parts.bytes() / 8));
  for (int64_t i = 0; i < chunk_count(p); ++i) pack_chunk(p, i, true, packed_at(p, packed, i), scratch.data());
}

int64_t popcount_panels_words(const ConvPlan& p) {
  const int64_t packed = p.packed.words == nullptr ? popcount_packed_words(p) : 0;
  return packed + chunk_count(p) * PopcountBounds::bytes(p) / 8;
}

int64_t popcount_scratch_words(const ConvPlan& p) {
  Parts packing, work;
  static_cast<void>(Packing(p, packing));
  static_cast<void>(Workspace(p, work));
  return std::max(packing.bytes(), work.bytes()) / 8;
}

void prepare_popcount(const ConvPlan& p, int64_t chunk, uint64_t* scratch) {
  const PackedChunk packed = packed_chunk(p, chunk);
  if (p.packed.words == nullptr) pack_chunk(p, chunk, !p.skips, packed, scratch);
  const PopcountBounds bounds = bounds_of_chunk(p, chunk);
  fill_base(p, packed, bounds.base);
  limit_base(p, ChunkFilters(p, chunk), bounds);
}

void popcount_conv(const ConvPlan& p, int64_t begin, int64_t end, uint64_t* scratch) {
  Parts parts(scratch);
  const Workspace w(p, parts);
  for (int64_t first = begin; first < end; first += p.strip) Strip(p, w, first, std::min(p.strip, end - first)).run();
}

}  // namespace bnn::cpu
