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

// At least n bytes, in steps of 16: reads and writes up to 15 more.
inline void copy_over(char* to, const char* from, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) std::memcpy(to + i, from + i, 16);
}

// Windows of whole bytes: R runs of `pieces` pieces each. A piece is S taps at once where they are neighbours in
// memory. Each copy overruns into the next one's place; the bits past the last are cleared. kPiece: its bytes, or 0 if
// known at run time.
template <int kPiece>
void gather_pieces(const ConvPlan& p, int64_t offset, int64_t pieces, int64_t piece_bytes, int64_t step, int64_t first,
                   int64_t count, uint64_t* windows) {
  const ConvGeometry& g = p.geometry;
  const int64_t bytes = kPiece != 0 ? kPiece : piece_bytes;
  const int64_t row_step = g.dilation_h * (g.W + 2 * g.pad_w) * p.pixel_bytes;
  const uint64_t last = low_bits(g.bits() - (p.row_words - 1) * kWordBits);
  for_each_run(g, first, count, [&](int64_t n, int64_t oh, int64_t ow, int64_t run) {
    const char* corner = window_corner(p, n, oh, ow) + offset;
    for (int64_t i = 0; i < run; ++i, windows += p.row_words, corner += g.stride_w * p.pixel_bytes) {
      const char* row = corner;
      char* to = reinterpret_cast<char*>(windows);
      for (int64_t r = 0; r < g.R; ++r, row += row_step) {
        for (int64_t j = 0; j < pieces; ++j, to += bytes) copy_over(to, row + j * step, bytes);
      }
      windows[p.row_words - 1] &= last;
    }
  });
}

void gather_bits(const ConvPlan& p, int64_t group, int64_t first, int64_t count, uint64_t* windows) {
  const ConvGeometry& g = p.geometry;
  for_each_run(g, first, count, [&](int64_t n, int64_t oh, int64_t ow, int64_t run) {
    const auto* corner = reinterpret_cast<const uint64_t*>(window_corner(p, n, oh, ow));
    for (int64_t i = 0; i < run; ++i, windows += p.row_words, corner += g.stride_w * g.L()) {
      BitWriter row(windows);
      for (int64_t r = 0; r < g.R; ++r) {
        for (int64_t s = 0; s < g.S; ++s) {
          const int64_t pixel = r * g.dilation_h * (g.W + 2 * g.pad_w) + s * g.dilation_w;
          row.append_cut(corner + pixel * g.L(), group * g.Cg(), g.Cg());
        }
      }
      row.flush();
    }
  });
}

}  // namespace

const char* window_corner(const ConvPlan& p, int64_t n, int64_t oh, int64_t ow) {
  const ConvGeometry& g = p.geometry;
  const int64_t pad_h = p.copied ? g.pad_h : 0, pad_w = p.copied ? g.pad_w : 0;  // that the image has
  const int64_t row = n * (g.H + 2 * pad_h) + oh * g.stride_h + pad_h - g.pad_h;
  const int64_t column = ow * g.stride_w + pad_w - g.pad_w;
  const char* image = p.copied ? p.image : reinterpret_cast<const char*>(p.x);
  return image + (row * (g.W + 2 * pad_w) + column) * p.pixel_bytes;
}

void fill_image_row(const ConvPlan& p, int64_t row) {
  const ConvGeometry& g = p.geometry;
  const int64_t height = g.H + 2 * g.pad_h, n = row / height, h = row % height - g.pad_h;
  const int64_t pad = g.pad_w * p.pixel_bytes, inside = g.W * p.pixel_bytes;
  const int outside = g.pad_value < 0 ? 0xff : 0;
  char* to = p.image + row * (2 * pad + inside);
  if (h < 0 || h >= g.H) {
    std::memset(to, outside, static_cast<size_t>(2 * pad + inside));
    return;
  }
  const auto* from = reinterpret_cast<const char*>(p.x + (n * g.H + h) * g.W * g.L());
  std::memset(to, outside, static_cast<size_t>(pad));
  std::memset(to + pad + inside, outside, static_cast<size_t>(pad));
  if (p.pixel_bytes == g.L() * 8) {
    std::memcpy(to + pad, from, static_cast<size_t>(inside));
  } else if (p.pixel_bytes == 4) {
    for (int64_t w = 0; w < g.W; ++w) std::memcpy(to + pad + w * 4, from + w * 8, 4);
  } else {
    for (int64_t w = 0; w < g.W; ++w) {
      std::memcpy(to + pad + w * p.pixel_bytes, from + w * g.L() * 8, static_cast<size_t>(p.pixel_bytes));
    }
  }
}

void gather_windows(const ConvPlan& p, int64_t group, int64_t first, int64_t count, uint64_t* windows) {
  const ConvGeometry& g = p.geometry;
  if (g.Cg() % 8 != 0) return gather_bits(p, group, first, count, windows);
  const int64_t tap = g.Cg() / 8, offset = group * tap;
  const bool adjacent = g.G == 1 && g.dilation_w == 1;
  const int64_t pieces = adjacent ? 1 : g.S, bytes = adjacent ? g.S * tap : tap, step = g.dilation_w * p.pixel_bytes;
  switch (bytes) {
    case 12:  // 3 taps of 32 channels
      return gather_pieces<12>(p, offset, pieces, bytes, step, first, count, windows);
    case 24:  // 3 taps of 64 channels
      return gather_pieces<24>(p, offset, pieces, bytes, step, first, count, windows);
    default:
      return gather_pieces<0>(p, offset, pieces, bytes, step, first, count, windows);
  }
}

void pack_filter(const ConvPlan& p, const uint64_t* filter, int64_t run, uint64_t* row) {
  const ConvGeometry& g = p.geometry;
  for (int64_t first = 0; first < g.taps(); first += run, row += words_for(run * g.Cg())) {
    BitWriter writer(row);
    for (int64_t t = 0; t < run; ++t, filter += g.Lg()) writer.append_cut(filter, 0, g.Cg());
    writer.flush();
  }
}

}  // namespace bnn::cpu
