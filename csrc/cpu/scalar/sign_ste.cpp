#include <algorithm>
#include <cmath>

#include "bnn/with_type.h"
#include "cpu/ukernels.h"

namespace bnn::cpu::scalar {
namespace {

constexpr float kQuantum = 2.0f / 255.0f;

float derivative(Surrogate surrogate, float v) {
  if (surrogate == Surrogate::clip) return std::fabs(v) <= 1.0f ? 1.0f : 0.0f;
  const float d = 2.0f - 2.0f * std::fabs(v);
  return d > 0.0f ? d : 0.0f;
}

uint8_t quantized(float v) {
  const float d = 1.0f - std::fabs(v);
  return static_cast<uint8_t>(std::lrintf(255.0f * (d > 0.0f ? d : 0.0f)));
}

bool bit(const uint64_t* words, int64_t c) { return (words[c / kWordBits] >> (c % kWordBits)) & 1; }

}  // namespace

void sign_ste(ConstSpan x, const float* shift, int64_t rows, int64_t channels, Span y) {
  with_type(x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* in = static_cast<const T*>(x.data);
    T* out = static_cast<T*>(y.data);
    for (int64_t i = 0; i < rows * channels; ++i) {
      const float v = to_float(in[i]) + (shift ? shift[i % channels] : 0.0f);
      from_float(v < 0.0f ? -1.0f : 1.0f, out[i]);
    }
  });
}

void sign_ste_backward(ConstSpan grad, ConstSpan x, const float* shift, Surrogate surrogate, int64_t rows,
                       int64_t channels, Span grad_x) {
  with_type(x.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* g = static_cast<const T*>(grad.data);
    const T* in = static_cast<const T*>(x.data);
    T* out = static_cast<T*>(grad_x.data);
    for (int64_t i = 0; i < rows * channels; ++i) {
      const float v = to_float(in[i]) + (shift ? shift[i % channels] : 0.0f);
      from_float(to_float(g[i]) * derivative(surrogate, v), out[i]);
    }
  });
}

void ste_residue(ConstSpan x, const float* shift, Surrogate surrogate, int64_t rows, int64_t channels, uint64_t* words,
                 void* residue) {
  const int64_t L = words_for(channels);
  scalar::bitpack(x, shift, rows, channels, words);
  uint64_t* inside = static_cast<uint64_t*>(residue);
  uint8_t* quanta = static_cast<uint8_t*>(residue);
  if (surrogate == Surrogate::clip) std::fill_n(inside, rows * L, uint64_t{0});
  with_type(x.dtype, [&](auto tag) {
    const auto* in = static_cast<const decltype(tag)*>(x.data);
    for (int64_t i = 0; i < rows * channels; ++i) {
      const int64_t row = i / channels, c = i % channels;
      const float v = to_float(in[i]) + (shift ? shift[c] : 0.0f);
      if (surrogate == Surrogate::polynomial) {
        quanta[i] = quantized(v);
      } else if (std::fabs(v) <= 1.0f) {
        inside[row * L + c / kWordBits] |= uint64_t{1} << (c % kWordBits);
      }
    }
  });
}

void ste_residue_backward(ConstSpan grad, const void* residue, Surrogate surrogate, int64_t rows, int64_t channels,
                          Span grad_x) {
  const int64_t L = words_for(channels);
  const uint64_t* inside = static_cast<const uint64_t*>(residue);
  const uint8_t* quanta = static_cast<const uint8_t*>(residue);
  with_type(grad.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* g = static_cast<const T*>(grad.data);
    T* out = static_cast<T*>(grad_x.data);
    for (int64_t i = 0; i < rows * channels; ++i) {
      const bool clip = surrogate == Surrogate::clip;
      const float d = clip ? static_cast<float>(bit(inside + i / channels * L, i % channels)) : quanta[i] * kQuantum;
      from_float(to_float(g[i]) * d, out[i]);
    }
  });
}

}  // namespace bnn::cpu::scalar
