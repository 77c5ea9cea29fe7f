#pragma once

#include <cstdint>

#include "bnn/bits.h"
#include "bnn/epilogue.h"
#include "bnn/multires_pool2d.h"
#include "bnn/sign_ste.h"
#include "bnn/span.h"
#include "cpu/isa.h"

namespace bnn::cpu {

// Filters travel in panels of 16, interleaved by word: panel [words][16].
inline constexpr int kPanel = 16;

// One function type per microkernel. Rows have C channels, channels innermost, and are contiguous; L = ceil(C / 64).
namespace ukernel {

// dot[p * ld + k] = base[p][column + k] - 2 popcount(a[p] ^ panel[:, k]); a [pixels, words], always 16 columns k.
using bgemm = void(const uint64_t* a, int64_t pixels, int64_t words, const uint64_t* panel, const int32_t* const* base,
                   int64_t column, int32_t* dot, int64_t ld);

// dot[k] = bits - 2 popcount(a ^ w[k]); a [words], w [filters, words]
using bgemv = void(const uint64_t* a, const uint64_t* w, int64_t words, int64_t filters, int32_t bits, int32_t* dot);

// 64 channels of bit-sliced mismatch counters: dot[c] = taps - 2 sum_b 2^b bit c of planes[b]; writes dot[0..63].
using counters_to_dot = void(const uint64_t* planes, int count, int32_t taps, int32_t* dot);

using bitpack = void(ConstSpan x, const float* shift, int64_t rows, int64_t channels, uint64_t* words);
using bitunpack = void(const uint64_t* words, int64_t rows, int64_t channels, Span y);
using sign_ste = void(ConstSpan x, const float* shift, int64_t rows, int64_t channels, Span y);
using sign_ste_backward = void(ConstSpan grad, ConstSpan x, const float* shift, Surrogate surrogate, int64_t rows,
                               int64_t channels, Span grad_x);
using ste_residue = void(ConstSpan x, const float* shift, Surrogate surrogate, int64_t rows, int64_t channels,
                         uint64_t* words, void* residue);
using ste_residue_backward = void(ConstSpan grad, const void* residue, Surrogate surrogate, int64_t rows,
                                  int64_t channels, Span grad_x);

// Rows [row, row + rows) of the epilogue from dot [rows, ld]
using epilogue_scaled = void(const Epilogue& e, const int32_t* dot, int64_t ld, int64_t row, int64_t rows);
using epilogue_fused = void(const Epilogue& e, const int32_t* dot, int64_t ld, int64_t row, int64_t rows);

// sum[i] += x[i]
using accumulate = void(ConstSpan x, int64_t n, float* sum);

// y[i] = x[i] in the dtype of y
using round_store = void(const float* x, int64_t n, Span y);

// y[j * stride + e] = mean over bin j of row[position][e], where row holds sums over bins.height rows; row [W, width]
using average_bins = void(const PoolBins& bins, const float* row, int64_t width, Span y, int64_t stride);

// row[position][e] += y[j * stride + e] / area for every bin j that covers the position
using spread_bins = void(const PoolBins& bins, ConstSpan y, int64_t stride, int64_t width, float* row);

}  // namespace ukernel

#define BNN_UKERNEL(isa, op) \
  namespace isa {            \
  ukernel::op op;            \
  }
#include "cpu/ukernels.inc"
#undef BNN_UKERNEL

struct Ukernels {
  ukernel::bgemm* bgemm;
  ukernel::bgemv* bgemv;
  ukernel::counters_to_dot* counters_to_dot;
  ukernel::bitpack* bitpack;
  ukernel::bitunpack* bitunpack;
  ukernel::sign_ste* sign_ste;
  ukernel::sign_ste_backward* sign_ste_backward;
  ukernel::ste_residue* ste_residue;
  ukernel::ste_residue_backward* ste_residue_backward;
  ukernel::epilogue_scaled* epilogue_scaled;
  ukernel::epilogue_fused* epilogue_fused;
  ukernel::accumulate* accumulate;
  ukernel::round_store* round_store;
  ukernel::average_bins* average_bins;
  ukernel::spread_bins* spread_bins;
};

const Ukernels& ukernels_of(Isa isa);

inline const Ukernels& ukernels() { return ukernels_of(isa_current()); }

}  // namespace bnn::cpu
