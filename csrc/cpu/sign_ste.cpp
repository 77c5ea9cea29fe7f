#include "bnn/sign_ste.h"

#include <cmath>

#include "bnn/bits.h"
#include "bnn/with_type.h"
#include "cpu/ukernels.h"

namespace bnn::cpu {
namespace {

// The residue has a byte a channel or a word per 64.
char* residue_row(const SignSte& p, int64_t row) {
  const bool clip = p.surrogate == Surrogate::clip;
  const int64_t bytes = clip ? words_for(p.channels) * static_cast<int64_t>(sizeof(uint64_t)) : p.channels;
  return static_cast<char*>(p.residue) + row * bytes;
}

}  // namespace

void sign_ste(const SignSte& p, int64_t row_begin, int64_t row_end) {
  const int64_t i = row_begin * p.channels;
  ukernels().sign_ste(p.x.at(i), p.shift, row_end - row_begin, p.channels, p.out.at(i));
}

void sign_ste_backward(const SignSte& p, int64_t row_begin, int64_t row_end) {
  const int64_t i = row_begin * p.channels;
  ukernels().sign_ste_backward(p.grad.at(i), p.x.at(i), p.shift, p.surrogate, row_end - row_begin, p.channels,
                               p.out.at(i));
}

void ste_residue(const SignSte& p, int64_t row_begin, int64_t row_end) {
  ukernels().ste_residue(p.x.at(row_begin * p.channels), p.shift, p.surrogate, row_end - row_begin, p.channels,
                         p.words + row_begin * words_for(p.channels), residue_row(p, row_begin));
}

void ste_residue_backward(const SignSte& p, int64_t row_begin, int64_t row_end) {
  const int64_t i = row_begin * p.channels;
  ukernels().ste_residue_backward(p.grad.at(i), residue_row(p, row_begin), p.surrogate, row_end - row_begin, p.channels,
                                  p.out.at(i));
}

void mean_abs(const MeanAbs& p, int64_t row_begin, int64_t row_end) {
  constexpr int kSums = 8;  // independent sums fill vector registers
  with_type(p.w.dtype, [&](auto tag) {
    for (int64_t row = row_begin; row < row_end; ++row) {
      const auto* w = static_cast<const decltype(tag)*>(p.w.data) + row * p.length;
      double sums[kSums] = {};
      int64_t i = 0;
      for (; i + kSums <= p.length; i += kSums) {
        for (int j = 0; j < kSums; ++j) sums[j] += std::fabs(to_float(w[i + j]));
      }
      for (; i < p.length; ++i) sums[0] += std::fabs(to_float(w[i]));
      for (int j = 1; j < kSums; ++j) sums[0] += sums[j];
      p.mean[row] = static_cast<float>(sums[0] / static_cast<double>(p.length));
    }
  });
}

}  // namespace bnn::cpu
