#include "cpu/popcount_conv.h"

#include <algorithm>
#include <cstring>
#include <limits>
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

// Filters [first, first + count) of a group and of all
struct ChunkFilters {
  int64_t in_group, first, count;

  ChunkFilters(const ConvPlan& p, int64_t chunk) {
    const ConvGeometry& g = p.geometry;
    in_group = chunk % p.chunks * kWordBits;
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

void pack_chunk(const ConvPlan& p, int64_t chunk, const PackedChunk& to, uint64_t* scratch) {
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
  if (to.ones != nullptr) count_ones(p, p.weight + filters.first * filter_words, filters.count, w, to.ones);
}

// base [classes, 64] = bits - sum of w over taps outside: where a dot product begins from which 2 mismatches are taken.
void fill_base(const ConvPlan& p, const PackedChunk& packed, int32_t* base) {
  const auto bits = static_cast<int32_t>(p.geometry.bits());
  if (packed.ones == nullptr) return void(std::fill_n(base, kWordBits, bits));
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

struct Workspace {
  const uint64_t** windows;  // [strip] see PanelProducts
  int32_t* row_base;         // [strip] see PanelProducts
  int32_t* dot;              // [strip, ld]
  uint64_t* gathered;        // [strip, row_words] and slack

  Workspace(const ConvPlan& p, Parts& parts)
      : windows(parts.take<const uint64_t*>(p.strip)),
        row_base(parts.take<int32_t>(p.strip)),
        dot(parts.take<int32_t>(p.strip * p.ld)),
        gathered(parts.take<uint64_t>(p.gathered ? p.strip * p.row_words + kCopySlack / 8 : 0)) {}
};

// Strip of output pixels [first, first + count) on its way through all filters
class Strip {
 public:
  Strip(const ConvPlan& p, const Workspace& w, int64_t first, int64_t count) : p_(p), w_(w), first_(first) {
    const ConvGeometry& g = p.geometry;
    products_.windows = w.windows;
    products_.pixels = count;
    products_.row_base = w.row_base;
    products_.runs = p.gathered ? 1 : g.R;
    products_.run = p.row_words / products_.runs;
    products_.step = g.dilation_h * (g.W + 2 * g.pad_w) * g.L();
    products_.bits_step = words_for(g.K) * 8;
    products_.ld = p.ld;
    row_bases(p, first, count, w.row_base);
    if (p.gathered) {
      for (int64_t i = 0; i < count; ++i) w.windows[i] = w.gathered + i * p.row_words;
    } else {
      find_windows(p, first, count, w.windows);
    }
  }

  void run() {
    const ConvGeometry& g = p_.geometry;
    const bool by_chunks = chunks_are_words(g);
    for (int64_t chunk = 0; chunk < chunk_count(p_); ++chunk) {
      if (p_.gathered && chunk % p_.chunks == 0) {
        gather_windows(p_, chunk / p_.chunks, first_, products_.pixels, w_.gathered);
      }
      multiply(chunk, by_chunks);
    }
    if (!by_chunks) store(0, g.K);
  }

 private:
  void multiply(int64_t chunk, bool by_chunks) {
    const ChunkFilters filters(p_, chunk);
    const PackedChunk packed = packed_chunk(p_, chunk);
    const PopcountBounds bounds = bounds_of_chunk(p_, chunk);
    const bool limited = *bounds.limited != 0;
    auto* words = reinterpret_cast<uint8_t*>(p_.epilogue.words) + first_ * products_.bits_step + filters.first / 8;
    if (limited && filters.panels() < kChunkPanels) {
      for (int64_t p = 0; p < products_.pixels; ++p) std::memset(words + p * products_.bits_step, 0, 8);
    }
    // Groups ascend: what a group's last panel writes beyond its filters is overwritten by the next group.
    int32_t* dot = w_.dot + (by_chunks ? 0 : filters.first);
    for (int64_t panel = 0; panel < filters.panels(); ++panel) {
      const int64_t column = panel * kPanel;
      products_.panel = packed.panels + column * p_.row_words;
      products_.base = bounds.base + column;
      products_.dot = dot + column;
      products_.bits = limited ? words + column / 8 : nullptr;
      products_.falling = limited ? static_cast<uint16_t>(*bounds.falling >> column) : 0;
      ukernels().bgemm(products_);
    }
    if (by_chunks && !limited) store(filters.first, filters.count);
  }

  void store(int64_t channel, int64_t channels) {
    store_rows(p_.epilogue, {.wide = w_.dot, .ld = p_.ld}, {first_, products_.pixels, channel, channels});
  }

  const ConvPlan& p_;
  const Workspace& w_;
  int64_t first_;
  PanelProducts products_{};
};

}  // namespace

void plan_popcount(ConvPlan& p) {
  const ConvGeometry& g = p.geometry;
  p.row_words = words_for(g.bits());
  p.chunks = ceil_div(g.Kg(), kWordBits);
  p.ld = chunks_are_words(g) ? kWordBits : ceil_div(g.K, kPanel) * kPanel + kPanel;
  const bool whole = g.C % kWordBits == 0 && (g.dilation_w == 1 || g.S == 1);
  p.gathered = !(g.G == 1 && (whole || (g.taps() == 1 && !g.padded())));
  p.copied = p.gathered || g.padded();
  p.pixel_bytes = p.gathered && g.Cg() % 8 == 0 ? g.C / 8 : g.L() * 8;
  const int64_t bytes = (p.gathered ? p.row_words * 8 : 0) + p.ld * 4 + 12;
  p.strip = std::clamp<int64_t>(kStripBytes / bytes / 8 * 8, 8, 256);
}

int64_t popcount_packed_words(const ConvPlan& p) { return chunk_count(p) * PackedChunk::bytes(p) / 8; }

void pack_popcount(const ConvPlan& p, uint64_t* packed) {
  Parts parts;
  static_cast<void>(Packing(p, parts));
  std::vector<uint64_t> scratch(static_cast<size_t>(parts.bytes() / 8));
  for (int64_t i = 0; i < chunk_count(p); ++i) pack_chunk(p, i, packed_at(p, packed, i), scratch.data());
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
  if (p.packed.words == nullptr) pack_chunk(p, chunk, packed, scratch);
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
