#include "cpu/conv_rows.h"

#include <algorithm>
#include <cstring>

namespace bnn::cpu {
namespace {

// n bits of a word row from bit `offset` on, n in 1..64; reads no word that holds none of them.
uint64_t cut(const uint64_t* words, int64_t offset, int n) {
  const int64_t j = offset / kWordBits;
  const int shift = static_cast<int>(offset % kWordBits);
  uint64_t v = words[j] >> shift;
  if (shift + n > kWordBits) v |= words[j + 1] << (kWordBits - shift);
  return v & low_bits(n);
}

// Appends bits to a row of words.
class BitWriter {
 public:
  explicit BitWriter(uint64_t* row) : out_(row) {}

  void append(uint64_t bits, int n) {  // bits above n are 0
    pending_ |= bits << fill_;
    if (fill_ + n >= kWordBits) {
      *out_++ = pending_;
      pending_ = fill_ == 0 ? 0 : bits >> (kWordBits - fill_);
      fill_ -= kWordBits;
    }
    fill_ += n;
  }

  void append_cut(const uint64_t* words, int64_t offset, int64_t n) {
    for (; n > 0; offset += kWordBits, n -= kWordBits) {
      const int some = static_cast<int>(std::min<int64_t>(n, kWordBits));
      append(cut(words, offset, some), some);
    }
  }

  void append_fill(uint64_t word, int64_t n) {
    for (; n > 0; n -= kWordBits) append(word & low_bits(n), static_cast<int>(std::min<int64_t>(n, kWordBits)));
  }

  void flush() {
    if (fill_ > 0) *out_ = pending_;
  }

 private:
  uint64_t* out_;
  uint64_t pending_ = 0;
  int fill_ = 0;
};

// Short copies of whole bytes without a library call.
inline void copy_bytes(char* to, const char* from, int64_t n) {
  for (; n >= 8; n -= 8, to += 8, from += 8) std::memcpy(to, from, 8);
  if (n >= 4) {
    std::memcpy(to, from, 4);
    to += 4, from += 4, n -= 4;
  }
  for (; n > 0; --n) *to++ = *from++;
}

inline void fill_bytes(char* to, uint64_t word, int64_t n) {
  for (; n >= 8; n -= 8, to += 8) std::memcpy(to, &word, 8);
  for (; n > 0; --n) *to++ = static_cast<char>(word);
}

struct Window {
  TapRange rows, columns;
  const uint64_t* corner;  // pixel of tap (0, 0), perhaps outside
};

Window window_at(const BinaryConv2d& p, const PixelCursor& at) {
  const ConvGeometry& g = p.geometry;
  const int64_t h = at.oh * g.stride_h - g.pad_h, w = at.ow * g.stride_w - g.pad_w;
  return {p.border.rows[p.border.row_class[at.oh]], p.border.columns[p.border.column_class[at.ow]],
          p.x + ((at.n * g.H + h) * g.W + w) * g.L()};
}

// Cg a multiple of 8. kTapBytes = Cg / 8, or 0 when only known at run time.
template <int kTapBytes>
void gather_by_bytes(const BinaryConv2d& p, int64_t group, int64_t first, int64_t count, uint64_t* windows) {
  const ConvGeometry& g = p.geometry;
  const int64_t tap = kTapBytes != 0 ? kTapBytes : g.Cg() / 8;
  const int64_t pixel = g.L() * 8, step_w = g.dilation_w * pixel, step_h = g.dilation_h * g.W * pixel;
  const bool adjacent = tap == pixel && g.dilation_w == 1;
  const uint64_t outside = g.pad_value < 0 ? ~uint64_t{0} : 0;
  PixelCursor at(g, first);
  for (int64_t i = 0; i < count; ++i, at.next(g), windows += p.row_words) {
    const Window w = window_at(p, at);
    windows[p.row_words - 1] = 0;
    char* to = reinterpret_cast<char*>(windows);
    for (int64_t r = 0; r < g.R; ++r) {
      if (r < w.rows.begin || r >= w.rows.end) {
        fill_bytes(to, outside, g.S * tap);
        to += g.S * tap;
        continue;
      }
      const char* from = reinterpret_cast<const char*>(w.corner) + group * tap + r * step_h + w.columns.begin * step_w;
      fill_bytes(to, outside, w.columns.begin * tap);
      to += w.columns.begin * tap;
      const int64_t inside = w.columns.end - w.columns.begin;
      if (adjacent) {
        copy_bytes(to, from, inside * tap);
        to += inside * tap;
      } else {
        for (int64_t s = 0; s < inside; ++s, from += step_w, to += tap) copy_bytes(to, from, tap);
      }
      fill_bytes(to, outside, (g.S - w.columns.end) * tap);
      to += (g.S - w.columns.end) * tap;
    }
  }
}

void gather_by_bits(const BinaryConv2d& p, int64_t group, int64_t first, int64_t count, uint64_t* windows) {
  const ConvGeometry& g = p.geometry;
  const uint64_t outside = g.pad_value < 0 ? ~uint64_t{0} : 0;
  PixelCursor at(g, first);
  for (int64_t i = 0; i < count; ++i, at.next(g), windows += p.row_words) {
    const Window w = window_at(p, at);
    BitWriter row(windows);
    for (int64_t r = 0; r < g.R; ++r) {
      const bool row_inside = r >= w.rows.begin && r < w.rows.end;
      for (int64_t s = 0; s < g.S; ++s) {
        if (row_inside && s >= w.columns.begin && s < w.columns.end) {
          row.append_cut(w.corner + (r * g.dilation_h * g.W + s * g.dilation_w) * g.L(), group * g.Cg(), g.Cg());
        } else {
          row.append_fill(outside, g.Cg());
        }
      }
    }
    row.flush();
  }
}

}  // namespace

void gather_windows(const BinaryConv2d& p, int64_t group, int64_t first, int64_t count, uint64_t* windows) {
  const int64_t channels = p.geometry.Cg();
  if (channels % 8 != 0) return gather_by_bits(p, group, first, count, windows);
  switch (channels) {
    case 32:
      return gather_by_bytes<4>(p, group, first, count, windows);
    case 64:
      return gather_by_bytes<8>(p, group, first, count, windows);
    default:
      return gather_by_bytes<0>(p, group, first, count, windows);
  }
}

void pack_filter(const BinaryConv2d& p, const uint64_t* filter, uint64_t* row) {
  const ConvGeometry& g = p.geometry;
  BitWriter writer(row);
  for (int64_t t = 0; t < g.taps(); ++t, filter += g.Lg()) writer.append_cut(filter, 0, g.Cg());
  writer.flush();
}

void slice_tap(const BinaryConv2d& p, int64_t i) {
  const ConvGeometry& g = p.geometry;
  const int64_t m = i / g.taps(), t = i % g.taps();
  uint64_t* slice = p.panels + i * g.L();
  std::fill_n(slice, g.L(), uint64_t{0});
  for (int64_t c = 0; c < g.C; ++c) {
    const uint64_t bit = p.weight[(c * g.Kg() + m) * g.taps() + t] & 1;
    slice[c / kWordBits] |= bit << (c % kWordBits);
  }
}

}  // namespace bnn::cpu
