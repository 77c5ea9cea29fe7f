#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <type_traits>

#include "bnn/sign_ste.h"
#include "cuda/pack_rows.h"
#include "cuda/row_walk.h"

namespace bnn::cuda {
namespace {

constexpr float kQuantum = 2.0f / 255.0f;

__device__ __forceinline__ float derivative(Surrogate surrogate, float v) {
  if (surrogate == Surrogate::clip) return fabsf(v) <= 1.0f ? 1.0f : 0.0f;
  const float d = 2.0f - 2.0f * fabsf(v);
  return d > 0.0f ? d : 0.0f;
}

template <class T, int N>
struct Sign {
  static constexpr int kVector = N;
  static constexpr bool kShifted = true;
  using In = Vec<T, N>;

  const T* x;
  const float* shift;
  T* y;

  __device__ In read(int64_t i, int64_t, int64_t) const { return In::load(x + i); }
  __device__ void write(int64_t i, const In& in, const float (&s)[N]) const {
    In out;
    for (int j = 0; j < N; ++j) narrow(widen(in.v[j]) + s[j] < 0.0f ? -1.0f : 1.0f, out.v[j]);
    out.store(y + i);
  }
};

template <class T, int N>
struct SignBackward {
  static constexpr int kVector = N;
  static constexpr bool kShifted = true;
  struct In {
    Vec<T, N> grad, x;
  };

  const T* grad;
  const T* x;
  const float* shift;
  Surrogate surrogate;
  T* grad_x;

  __device__ In read(int64_t i, int64_t, int64_t) const { return {Vec<T, N>::load(grad + i), Vec<T, N>::load(x + i)}; }
  __device__ void write(int64_t i, const In& in, const float (&s)[N]) const {
    Vec<T, N> out;
    for (int j = 0; j < N; ++j) {
      narrow(widen(in.grad.v[j]) * derivative(surrogate, widen(in.x.v[j]) + s[j]), out.v[j]);
    }
    out.store(grad_x + i);
  }
};

template <class T, int N>
struct ClipBackward {
  static constexpr int kVector = N;
  static constexpr bool kShifted = false;
  struct In {
    Vec<T, N> grad;
    uint32_t inside;
  };

  const T* grad;
  const uint64_t* inside;  // [rows, L]
  int64_t row_words;
  T* grad_x;

  __device__ In read(int64_t i, int64_t row, int64_t c) const {
    return {Vec<T, N>::load(grad + i), bits_at<N>(inside + row * row_words, c)};
  }
  __device__ void write(int64_t i, const In& in, const float (&)[N]) const {
    Vec<T, N> out;
    for (int j = 0; j < N; ++j) narrow(widen(in.grad.v[j]) * ((in.inside >> j) & 1 ? 1.0f : 0.0f), out.v[j]);
    out.store(grad_x + i);
  }
};

template <class T, int N>
struct PolynomialBackward {
  static constexpr int kVector = N;
  static constexpr bool kShifted = false;
  struct In {
    Vec<T, N> grad;
    Vec<uint8_t, N> quanta;
  };

  const T* grad;
  const uint8_t* quanta;  // [rows, C]
  T* grad_x;

  __device__ In read(int64_t i, int64_t, int64_t) const {
    return {Vec<T, N>::load(grad + i), Vec<uint8_t, N>::load(quanta + i)};
  }
  __device__ void write(int64_t i, const In& in, const float (&)[N]) const {
    Vec<T, N> out;
    for (int j = 0; j < N; ++j) narrow(widen(in.grad.v[j]) * (in.quanta.v[j] * kQuantum), out.v[j]);
    out.store(grad_x + i);
  }
};

// mean[i] of |w| over row i: a block a row, in float64, in an order that depends on nothing but the length.
constexpr int kMeanThreads = 256;

__device__ __forceinline__ double warp_sum(double v) {
  for (int other = kWarp / 2; other > 0; other /= 2) v += __shfl_xor_sync(kAllLanes, v, other);
  return v;
}

template <class T>
__global__ void __launch_bounds__(kMeanThreads) mean_abs_row(const T* w, int64_t length, float* mean) {
  STATIC_SHARED(double, sums, [kMeanThreads / kWarp]);
  const T* row = w + blockIdx.x * length;
  double sum = 0.0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < length; i += kMeanThreads) sum += fabsf(widen(row[i]));
  const int lane = threadIdx.x % kWarp;
  sum = warp_sum(sum);
  if (lane == 0) sums[threadIdx.x / kWarp] = sum;
  __syncthreads();
  sum = warp_sum(lane < kMeanThreads / kWarp ? sums[lane] : 0.0);
  if (threadIdx.x == 0) mean[blockIdx.x] = static_cast<float>(sum / static_cast<double>(length));
}

// Calls launch with an element type and, as a constant, how many of them a thread takes at a time.
template <class F>
Status with_vector(DType dtype, int64_t channels, std::initializer_list<const void*> pointers, F&& launch) {
  return with_type(dtype, [&](auto tag) {
    constexpr int N = kAccess / sizeof(tag);
    const bool wide =
        channels % N == 0 && std::all_of(pointers.begin(), pointers.end(), [](auto p) { return aligned(p, kAccess); });
    return wide ? launch(tag, std::integral_constant<int, N>{}) : launch(tag, std::integral_constant<int, 1>{});
  });
}

}  // namespace

Status sign_ste(const SignSte& p, int64_t rows, const Stream& stream) {
  return with_vector(p.x.dtype, p.channels, {p.x.data, p.out.data}, [&](auto tag, auto n) {
    using T = decltype(tag);
    const Sign<T, n> op{static_cast<const T*>(p.x.data), p.shift, static_cast<T*>(p.out.data)};
    return launch_walk(op, rows, p.channels, stream);
  });
}

Status sign_ste_backward(const SignSte& p, int64_t rows, const Stream& stream) {
  return with_vector(p.x.dtype, p.channels, {p.grad.data, p.x.data, p.out.data}, [&](auto tag, auto n) {
    using T = decltype(tag);
    const SignBackward<T, n> op{static_cast<const T*>(p.grad.data), static_cast<const T*>(p.x.data), p.shift,
                                p.surrogate, static_cast<T*>(p.out.data)};
    return launch_walk(op, rows, p.channels, stream);
  });
}

Status ste_residue(const SignSte& p, int64_t rows, const Stream& stream) {
  const PackRows pack{p.x.data, p.shift, rows, p.channels, reinterpret_cast<uint32_t*>(p.words), p.residue};
  return p.surrogate == Surrogate::clip ? launch_pack<Residue::clip>(p.x.dtype, pack, stream)
                                        : launch_pack<Residue::polynomial>(p.x.dtype, pack, stream);
}

Status ste_residue_backward(const SignSte& p, int64_t rows, const Stream& stream) {
  return with_vector(p.grad.dtype, p.channels, {p.grad.data, p.residue, p.out.data}, [&](auto tag, auto n) {
    using T = decltype(tag);
    const T* grad = static_cast<const T*>(p.grad.data);
    T* grad_x = static_cast<T*>(p.out.data);
    if (p.surrogate == Surrogate::clip) {
      const ClipBackward<T, n> op{grad, static_cast<const uint64_t*>(p.residue), words_for(p.channels), grad_x};
      return launch_walk(op, rows, p.channels, stream);
    }
    const PolynomialBackward<T, n> op{grad, static_cast<const uint8_t*>(p.residue), grad_x};
    return launch_walk(op, rows, p.channels, stream);
  });
}

Status mean_abs(const MeanAbs& p, int64_t rows, const Stream& stream) {
  if (rows == 0) return 0;
  return with_type(p.w.dtype, [&](auto tag) {
    using T = decltype(tag);
    LAUNCH(mean_abs_row<T>, static_cast<unsigned>(rows), kMeanThreads, 0, stream, static_cast<const T*>(p.w.data),
           p.length, p.mean);
    return launch_status();
  });
}

}  // namespace bnn::cuda
