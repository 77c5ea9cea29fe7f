#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "cpu/amx/tiles.h"
#include "cpu/target.h"
#include "cpu/ukernels.h"

BNN_AMX_BEGIN

namespace bnn::cpu::amx {
namespace {

constexpr int64_t kTileSteps = 16;       // of four bytes: a row of a tile of pixels, all of a tile of filters
constexpr int64_t kFewestPixels = 4;     // fewer leave most of a tile empty
constexpr int64_t kMostGathered = 8;     // tiles of steps
constexpr int64_t kPixelsTogether = 32;  // two tiles
constexpr int64_t kPanelsTogether = 4;

int64_t tile_rows_of(const ByteProducts& q) { return std::min<int64_t>(kTileRows, q.pixels); }

// kPixels x kPanels tiles of sums, in registers 0..3, which begin with what their panel's sums begin with; pixels in 4,
// filters in 6 and 7. Tiles of pixels begin with pixels first and second.
template <int kPixels, int kPanels>
void block(const ByteProducts& q, int64_t first, int64_t second, int64_t panel) {
  const int64_t panel_bytes = (1 + q.runs * q.run) * kPanelBytes;
  const int8_t *w0 = q.panels + panel * panel_bytes, *w1 = w0 + (kPanels - 1) * panel_bytes;
  _tile_loadd(0, w0, 0);
  if constexpr (kPixels == 2) _tile_loadd(1, w0, 0);
  if constexpr (kPanels == 2) {
    _tile_loadd(2, w1, 0);
    if constexpr (kPixels == 2) _tile_loadd(3, w1, 0);
  }
  w0 += kPanelBytes, w1 += kPanelBytes;
  for (int64_t r = 0; r < q.runs; ++r) {
    const uint8_t *a0 = q.rows[r] + first * q.step, *a1 = q.rows[r] + second * q.step;
    for (int64_t left = q.run; left > 0; left -= kTileSteps) {
      _tile_loadd(6, w0, kPanelBytes);
      _tile_loadd(4, a0, q.step);
      _tile_dpbusd(0, 4, 6);
      if constexpr (kPanels == 2) {
        _tile_loadd(7, w1, kPanelBytes);
        _tile_dpbusd(2, 4, 7);
      }
      if constexpr (kPixels == 2) {
        _tile_loadd(4, a1, q.step);
        _tile_dpbusd(1, 4, 6);
        if constexpr (kPanels == 2) _tile_dpbusd(3, 4, 7);
      }
      a0 += 4 * kTileSteps, a1 += 4 * kTileSteps;
      w0 += kTileBytes, w1 += kTileBytes;
    }
  }
  const auto to = [&](int64_t pixel, int64_t i) { return q.dot + pixel * q.ld + (panel + i) * kPanel; };
  const int64_t pitch = q.ld * static_cast<int64_t>(sizeof(int32_t));
  _tile_stored(0, to(first, 0), pitch);
  if constexpr (kPixels == 2) _tile_stored(1, to(second, 0), pitch);
  if constexpr (kPanels == 2) {
    _tile_stored(2, to(first, 1), pitch);
    if constexpr (kPixels == 2) _tile_stored(3, to(second, 1), pitch);
  }
}

// All pixels by all panels, where runs are whole tiles of steps. The last tile of pixels may begin among those of the
// one before and write their sums again.
void multiply(const ByteProducts& q) {
  const int64_t rows = tile_rows_of(q), last = q.pixels - rows;
  memory_barrier();
  for (int64_t panel = 0; panel < q.count; panel += 2) {
    const bool pair = panel + 1 < q.count;
    for (int64_t pixel = 0; pixel < q.pixels; pixel += 2 * rows) {
      const int64_t first = std::min(pixel, last), second = std::min(pixel + rows, last);
      if (pixel + rows < q.pixels) {
        pair ? block<2, 2>(q, first, second, panel) : block<2, 1>(q, first, second, panel);
      } else {
        pair ? block<1, 2>(q, first, first, panel) : block<1, 1>(q, first, first, panel);
      }
    }
  }
  memory_barrier();
}

// to + i * pitch has the window of pixel first + i. Runs of eight bytes go two at a time, the last one with itself.
void gather(const ByteProducts& q, int64_t first, int64_t pixels, uint8_t* to, int64_t pitch) {
  const auto row = [&](int64_t r) { return q.rows[std::min(r, q.runs - 1)] + first * q.step; };
  if (q.run == 2) {
    for (int64_t r = 0; r < q.runs; r += 2, to += 16) {
      const uint8_t *a = row(r), *b = row(r + 1);
      for (int64_t i = 0; i < pixels; ++i, a += q.step, b += q.step) {
        const __m128i even = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(a));
        const __m128i odd = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(b));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * pitch), _mm_unpacklo_epi64(even, odd));
      }
    }
    return;
  }
  for (int64_t r = 0; r < q.runs; ++r, to += 4 * q.run) {
    const uint8_t* from = row(r);
    for (int64_t i = 0; i < pixels; ++i, from += q.step) {
      for (int64_t at = 0; at < 4 * q.run; at += 64) {
        const auto some = static_cast<__mmask64>(low_bits(std::min<int64_t>(64, 4 * q.run - at)));
        _mm512_mask_storeu_epi8(to + i * pitch + at, some, _mm512_maskz_loadu_epi8(some, from + at));
      }
    }
  }
}

// Windows become one run each of whole tiles of steps. So do filters, with zeros behind: what is there of windows
// doesn't count.
void multiply_gathered(const ByteProducts& q) {
  const int64_t steps = q.runs * q.run, tiles = ceil_div(steps, kTileSteps), rows = tile_rows_of(q);
  const int64_t pitch = tiles * 4 * kTileSteps, panel_bytes = kPanelBytes + tiles * kTileBytes;
  alignas(64) uint8_t windows[kPixelsTogether * kMostGathered * 4 * kTileSteps];
  alignas(64) int8_t panels[kPanelsTogether * (kPanelBytes + kMostGathered * kTileBytes)];
  const uint8_t* run = windows;
  for (int64_t panel = 0; panel < q.count; panel += kPanelsTogether) {
    ByteProducts some = q;
    some.rows = &run, some.step = pitch, some.runs = 1, some.run = tiles * kTileSteps;
    some.panels = panels, some.count = std::min(kPanelsTogether, q.count - panel);
    const int64_t lying = (1 + steps) * kPanelBytes;
    for (int64_t i = 0; i < some.count; ++i) {
      std::memcpy(panels + i * panel_bytes, q.panels + (panel + i) * lying, static_cast<size_t>(lying));
      std::memset(panels + i * panel_bytes + lying, 0, static_cast<size_t>(panel_bytes - lying));
    }
    for (int64_t pixel = 0; pixel < q.pixels; pixel += kPixelsTogether) {
      const int64_t first = std::min(pixel, q.pixels - rows);
      some.pixels = std::min(kPixelsTogether, q.pixels - first);
      some.dot = q.dot + first * q.ld + panel * kPanel;
      gather(q, first, some.pixels, windows, pitch);
      multiply(some);
    }
  }
}

}  // namespace

void byte_products(const ByteProducts& q) {
  const int64_t steps = q.runs * q.run;
  if (q.pixels < kFewestPixels || steps < kTileSteps) return avx512::byte_products(q);
  if (q.run % kTileSteps == 0) return multiply(q);
  if (steps <= kMostGathered * kTileSteps) return multiply_gathered(q);
  avx512::byte_products(q);
}

}  // namespace bnn::cpu::amx

BNN_TARGET_END
