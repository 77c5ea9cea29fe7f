#include "bnn/bitpack.h"
#include "cuda/pack_rows.h"
#include "cuda/row_walk.h"

namespace bnn::cuda {
namespace {

// 1 - 2 bit as T holds it
template <class T>
struct Signs {
  T plus, minus;
};
constexpr Signs<uint32_t> kFloat{0x3f800000, 0xbf800000};
constexpr Signs<uint16_t> kBf16{0x3f80, 0xbf80};
constexpr Signs<uint16_t> kHalf{0x3c00, 0xbc00};
constexpr Signs<uint8_t> kInt8{0x01, 0xff};

template <class T, int N>
struct Unpack {
  static constexpr int kVector = N;
  static constexpr bool kShifted = false;
  using In = uint32_t;

  const uint64_t* words;
  int64_t row_words;
  Signs<T> signs;
  T* y;

  __device__ In read(int64_t, int64_t row, int64_t c) const { return bits_at<N>(words + row * row_words, c); }
  __device__ void write(int64_t i, In bits, const float (&)[N]) const {
    Vec<T, N> out;
    for (int j = 0; j < N; ++j) out.v[j] = (bits >> j) & 1 ? signs.minus : signs.plus;
    out.store(y + i);
  }
};

template <class T>
Status unpack(const Bitunpack& p, int64_t rows, Signs<T> signs, const Stream& stream) {
  constexpr int N = kAccess / sizeof(T);
  T* y = static_cast<T*>(p.y.data);
  const int64_t L = words_for(p.channels);
  if (p.channels % N == 0 && aligned(y, kAccess)) {
    return launch_walk(Unpack<T, N>{p.words, L, signs, y}, rows, p.channels, stream);
  }
  return launch_walk(Unpack<T, 1>{p.words, L, signs, y}, rows, p.channels, stream);
}

}  // namespace

Status bitpack(const Bitpack& p, int64_t rows, const Stream& stream) {
  const PackRows pack{p.x.data, p.shift, rows, p.channels, reinterpret_cast<uint32_t*>(p.words), nullptr};
  return launch_pack<Residue::none>(p.x.dtype, pack, stream);
}

Status bitunpack(const Bitunpack& p, int64_t rows, const Stream& stream) {
  switch (p.y.dtype) {
    case DType::f32:
      return unpack(p, rows, kFloat, stream);
    case DType::bf16:
      return unpack(p, rows, kBf16, stream);
    case DType::f16:
      return unpack(p, rows, kHalf, stream);
    default:
      return unpack(p, rows, kInt8, stream);
  }
}

}  // namespace bnn::cuda
