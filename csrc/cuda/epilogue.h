#pragma once

#include "bnn/bits.h"
#include "bnn/epilogue.h"
#include "cuda/device.h"

namespace bnn::cuda {

constexpr int kHalfWord = 32;  // kernels see a word as two halves of 32 bits, the low one first

// Channels come in blocks of a warp; both halves of the last word are covered, so that its tail bits get written.
inline int64_t channel_blocks(int64_t channels) { return 2 * words_for(channels); }

__device__ __forceinline__ float load(ConstSpan s, int64_t i) {
  if (s.dtype == DType::bf16) return widen(static_cast<const Bf16*>(s.data)[i]);
  if (s.dtype == DType::f16) return widen(static_cast<const Half*>(s.data)[i]);
  return static_cast<const float*>(s.data)[i];
}

__device__ __forceinline__ void store(Span s, int64_t i, float v) {
  if (s.dtype == DType::bf16) {
    narrow(v, static_cast<Bf16*>(s.data)[i]);
  } else if (s.dtype == DType::f16) {
    narrow(v, static_cast<Half*>(s.data)[i]);
  } else {
    static_cast<float*>(s.data)[i] = v;
  }
}

// What an Epilogue does to one channel. A warp holds 32 consecutive channels, the first a multiple of 32 where words
// are written; lanes that are not `active` have no channel, but take part in the vote.
class ChannelEpilogue {
 public:
  __device__ ChannelEpilogue(const Epilogue& e, int64_t k, bool active) : e_(e), k_(k), active_(active) {
    if (!active) return;
    if (e.kind == Epilogue::Kind::scaled && e.alpha) scale_ = e.alpha[k];
    if (e.kind != Epilogue::Kind::fused) return;
    scale_ = e.scale[k];
    bias_ = e.bias[k];
    if (e.rprelu) {
      before_ = e.rprelu[k];
      slope_ = e.rprelu[e.channels + k];
      after_ = e.rprelu[2 * e.channels + k];
    }
    if (e.next_shift) next_shift_ = e.next_shift[k];
  }

  __device__ void store_row(int64_t row, int dot) const {
    const int64_t i = row * e_.channels + k_;
    if (e_.kind == Epilogue::Kind::fused) return store_fused(row, i, dot);
    if (!active_) return;
    if (e_.kind == Epilogue::Kind::integer) {
      e_.sums[i] = dot;
    } else {
      store(e_.y, i, scale_ * static_cast<float>(dot));
    }
  }

 private:
  __device__ void store_fused(int64_t row, int64_t i, int dot) const {
    float y = scale_ * static_cast<float>(dot) + bias_;
    if (active_) {
      if (e_.residual) y += load(e_.residual, i);
      if (e_.rprelu) {
        const float t = y + before_;
        y = (t > 0.0f ? t : slope_ * t) + after_;
      }
      if (e_.stream) store(e_.stream, i, y);
    }
    if (!e_.words) return;
    const uint32_t bits = __ballot_sync(kAllLanes, active_ && y + next_shift_ < 0.0f);
    if (threadIdx.x % kWarp == 0) {
      reinterpret_cast<uint32_t*>(e_.words)[row * 2 * words_for(e_.channels) + k_ / kHalfWord] = bits;
    }
  }

  const Epilogue& e_;
  int64_t k_;
  bool active_;
  float scale_ = 1.0f, bias_ = 0.0f, before_ = 0.0f, slope_ = 0.0f, after_ = 0.0f, next_shift_ = 0.0f;
};

}  // namespace bnn::cuda
