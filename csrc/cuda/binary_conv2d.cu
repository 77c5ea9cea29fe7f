#include <algorithm>

#include "bnn/binary_conv2d.h"
#include "cuda/conv_tensor_core.h"
#include "cuda/launch.h"

namespace bnn::cuda {
namespace {

// Below these a tensor core tile would be mostly padding.
constexpr int64_t kMinBits = 256, kMinFilters = 32, kMinPixels = 64;
constexpr int64_t kMaxGridY = 65535, kMaxTable = int64_t{1} << 28;

constexpr int kIntegerWarps = 8, kIntegerPixels = 4;  // warps a block, pixels a warp

// table[class][filter] of the tensor core kernels, one warp an entry
template <bool kXor>
__global__ void __launch_bounds__(kConvThreads) border_table(ConvArgs a) {
  const int64_t entry = int64_t{blockIdx.x} * (kConvThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t filter = entry % a.filters, border = entry / a.filters;
  const int columns = a.columns.classes();
  if (border >= int64_t{a.rows.classes()} * columns) return;
  const Window window = window_at(a, 0, a.rows.position_of(static_cast<int>(border / columns)),
                                  a.columns.position_of(static_cast<int>(border % columns)));
  int sum = 0;
  for (int word = threadIdx.x % kWarp; word < a.words(); word += kWarp) {
    const TapWord t = tap_word(a, word);
    const int products = __popc(valid_bits(a, t)), value = products - 2 * __popc(*weight_word(a, filter, t));
    const bool in = a.pad_value == 1 || inside(a, window, t);
    sum += (kXor ? products : 0) + ((in ? 1 : a.pad_value) - (kXor ? 1 : 0)) * value;
  }
  for (int other = kWarp / 2; other > 0; other /= 2) sum += __shfl_xor_sync(kAllLanes, sum, other);
  if (threadIdx.x % kWarp == 0) a.table[entry] = sum;
}

// Small problems and narrow groups, depthwise ones among them: a lane an output channel, exclusive or and popcount.
__global__ void __launch_bounds__(kIntegerWarps* kWarp) conv_integer(ConvArgs a, int channel_blocks) {
  const int64_t unit = int64_t{blockIdx.x} * kIntegerWarps + threadIdx.x / kWarp, block = unit / channel_blocks;
  if (block * kIntegerPixels >= a.pixels) return;
  const int first = static_cast<int>(block) * kIntegerPixels;
  const int64_t k = unit % channel_blocks * kWarp + threadIdx.x % kWarp;
  const bool active = k < a.filters;
  const int group = active ? static_cast<int>(k / a.group_filters) : 0;
  Window windows[kIntegerPixels];
  int dots[kIntegerPixels] = {};
#pragma unroll
  for (int i = 0; i < kIntegerPixels; ++i) windows[i] = window_of(a, first + i);
  for (int word = 0; active && word < a.words(); ++word) {
    const TapWord t = tap_word(a, word);
    const uint32_t weight = *weight_word(a, k, t), valid = valid_bits(a, t);
#pragma unroll
    for (int i = 0; i < kIntegerPixels; ++i) {
      const bool in = inside(a, windows[i], t);
      if (!in && a.pad_value == 0) continue;
      uint32_t bits = a.pad_value < 0 ? valid : 0;
      if (in) bits = cut(a, pixel_under(a, windows[i], t), group, t);
      dots[i] += __popc(valid) - 2 * __popc(bits ^ weight);
    }
  }
  const ChannelEpilogue epilogue(a.epilogue, k, active);
#pragma unroll
  for (int i = 0; i < kIntegerPixels; ++i) {
    __syncwarp();
    if (first + i < a.pixels) epilogue.store_row(first + i, dots[i]);
  }
}

enum class Route { integer_units, b1_xor, b1_and, s8 };

BorderAxis border_axis(int64_t out, int64_t in, int64_t filter, int64_t stride, int64_t pad, int64_t dilation) {
  const int64_t low = std::min(out, ceil_div(pad, stride));
  const int64_t room = in + pad - 1 - (filter - 1) * dilation;  // the last position, times stride, that fits
  const int64_t high = std::min(out, room < 0 ? 0 : room / stride + 1);
  return {static_cast<int>(low), static_cast<int>(std::max(low, high)), static_cast<int>(out)};
}

// Whether what lies outside makes a difference to the table, whose pixels outside are +1.
bool border_sums(const ConvGeometry& g) { return g.padded() && g.pad_value != 1; }

int64_t border_classes(const ConvGeometry& g) {
  if (!border_sums(g)) return 1;
  return int64_t{border_axis(g.OH, g.H, g.R, g.stride_h, g.pad_h, g.dilation_h).classes()} *
         border_axis(g.OW, g.W, g.S, g.stride_w, g.pad_w, g.dilation_w).classes();
}

Route route_of(const BinaryConv2d& p, int capability) {
  const ConvGeometry& g = p.geometry;
  const bool small = g.bits() < kMinBits || g.Kg() < kMinFilters || g.pixels() < kMinPixels;
  const bool words_straddle_tiles = p.epilogue.words && g.G > 1 && g.Kg() % kTileFilters != 0;
  const bool too_large =
      g.G > kMaxGridY || ceil_div(g.Kg(), kTileFilters) > kMaxGridY || border_classes(g) * g.K > kMaxTable;
  if (small || words_straddle_tiles || too_large) return Route::integer_units;
  return capability < 80 ? Route::b1_xor : capability < 100 ? Route::b1_and : Route::s8;
}

bool needs_table(Route route) { return route == Route::b1_xor || route == Route::b1_and; }

// Largest copy, in words of 32 bits, that a tap of every pixel and filter can be cut into; 0: bits have to be shifted.
int copy_words(const ConvArgs& a) {
  if (a.groups > 1 && a.group_channels % kHalfWord != 0) return 0;
  for (const int words : {4, 2}) {
    const bool whole = a.tap_words % words == 0 && a.pixel_words % words == 0 && a.weight_tap_words % words == 0 &&
                       (a.groups == 1 || a.group_channels / kHalfWord % words == 0);
    if (whole && aligned(a.x, words * 4) && aligned(a.weight, words * 4)) return words;
  }
  return 1;
}

ConvArgs make_args(const BinaryConv2d& p, int* table) {
  const ConvGeometry& g = p.geometry;
  ConvArgs a;
  a.x = reinterpret_cast<const uint32_t*>(p.x);
  a.weight = reinterpret_cast<const uint32_t*>(p.weight);
  a.epilogue = p.epilogue;
  a.table = table;
  a.pixels = static_cast<int>(g.pixels());
  a.filters = static_cast<int>(g.K);
  a.groups = static_cast<int>(g.G);
  a.group_channels = static_cast<int>(g.Cg());
  a.group_filters = static_cast<int>(g.Kg());
  a.height = static_cast<int>(g.H), a.width = static_cast<int>(g.W);
  a.stride_h = static_cast<int>(g.stride_h), a.stride_w = static_cast<int>(g.stride_w);
  a.pad_h = static_cast<int>(g.pad_h), a.pad_w = static_cast<int>(g.pad_w);
  a.dilation_h = static_cast<int>(g.dilation_h), a.dilation_w = static_cast<int>(g.dilation_w);
  a.taps = static_cast<int>(g.taps());
  a.pixel_words = static_cast<int>(2 * g.L());
  a.weight_tap_words = static_cast<int>(2 * g.Lg());
  a.tap_words = static_cast<int>(ceil_div(g.Cg(), kHalfWord));
  a.out_width = Divisor(g.OW), a.out_size = Divisor(g.OH * g.OW);
  a.filter_width = Divisor(g.S), a.tap = Divisor(a.tap_words);
  a.pad_value = g.pad_value;
  if (border_sums(g)) {
    a.rows = border_axis(g.OH, g.H, g.R, g.stride_h, g.pad_h, g.dilation_h);
    a.columns = border_axis(g.OW, g.W, g.S, g.stride_w, g.pad_w, g.dilation_w);
  }
  return a;
}

template <class Mma, int kRowTiles>
void launch_tiles(const ConvArgs& a, const Stream& stream) {
  using Tile = ConvTile<kRowTiles>;
  const dim3 grid(static_cast<unsigned>(ceil_div(a.pixels, Tile::kPixels)),
                  static_cast<unsigned>(ceil_div(a.group_filters, kTileFilters)), static_cast<unsigned>(a.groups));
  if constexpr (Mma::kBytes) {
    LAUNCH((conv_tensor_core<Mma, kRowTiles, 0>), grid, kConvThreads, Tile::kSharedBytes, stream, a);
  } else {
    switch (copy_words(a)) {
      case 4:
        LAUNCH((conv_tensor_core<Mma, kRowTiles, 4>), grid, kConvThreads, Tile::kSharedBytes, stream, a);
        break;
      case 2:
        LAUNCH((conv_tensor_core<Mma, kRowTiles, 2>), grid, kConvThreads, Tile::kSharedBytes, stream, a);
        break;
      case 1:
        LAUNCH((conv_tensor_core<Mma, kRowTiles, 1>), grid, kConvThreads, Tile::kSharedBytes, stream, a);
        break;
      default:
        LAUNCH((conv_tensor_core<Mma, kRowTiles, 0>), grid, kConvThreads, Tile::kSharedBytes, stream, a);
    }
  }
}

template <class Mma>
void launch_mma(const ConvArgs& a, const Stream& stream) {
  if (!Mma::kBytes) {
    const int64_t entries = int64_t{a.rows.classes()} * a.columns.classes() * a.filters;
    LAUNCH((border_table<Mma::kXor>), static_cast<unsigned>(ceil_div(entries, kConvThreads / kWarp)), kConvThreads, 0,
           stream, a);
  }
  // Large tiles where they fill the device.
  const int64_t large = ceil_div(a.pixels, ConvTile<4>::kPixels) * ceil_div(a.group_filters, kTileFilters) * a.groups;
  if (large >= stream.multiprocessors) return launch_tiles<Mma, 4>(a, stream);
  launch_tiles<Mma, 2>(a, stream);
}

}  // namespace

const char* binary_conv2d_route(const BinaryConv2d& p, const Stream& stream) {
  switch (route_of(p, stream.capability)) {
    case Route::b1_xor:
      return "b1 xor m8n8k128";
    case Route::b1_and:
      return "b1 and m16n8k256";
    case Route::s8:
      return "s8 m16n8k32";
    default:
      return "integer units";
  }
}

int64_t binary_conv2d_workspace(const BinaryConv2d& p, const Stream& stream) {
  if (!needs_table(route_of(p, stream.capability))) return 0;
  return border_classes(p.geometry) * p.geometry.K * static_cast<int64_t>(sizeof(int));
}

Status binary_conv2d(const BinaryConv2d& p, void* workspace, const Stream& stream) {
  const ConvArgs a = make_args(p, static_cast<int*>(workspace));
  switch (route_of(p, stream.capability)) {
    case Route::b1_xor:
      launch_mma<MmaXor>(a, stream);
      break;
    case Route::b1_and:
      launch_mma<MmaAnd>(a, stream);
      break;
    case Route::s8:
      launch_mma<MmaBytes>(a, stream);
      break;
    case Route::integer_units: {
      const int64_t channels = channel_blocks(a.filters), units = ceil_div(a.pixels, kIntegerPixels) * channels;
      LAUNCH(conv_integer, static_cast<unsigned>(ceil_div(units, kIntegerWarps)), kIntegerWarps * kWarp, 0, stream, a,
             static_cast<int>(channels));
    }
  }
  return launch_status();
}

}  // namespace bnn::cuda
