#include "bnn/binary_linear.h"
#include "cuda/epilogue.h"
#include "cuda/launch.h"

namespace bnn::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kFilterLanes = 8;  // lanes that share a filter: 64 bytes of it at a time

// A block computes 32 outputs of every row from one read of their filters.
__global__ void __launch_bounds__(kThreads) few_rows(BinaryLinear p, Epilogue epilogue) {
  STATIC_SHARED(int, dots, [kFewRows][kWarp]);
  const int64_t L = words_for(p.C), first = int64_t{blockIdx.x} * kWarp;
  const int filter = static_cast<int>(threadIdx.x) / kFilterLanes, part = threadIdx.x % kFilterLanes;
  int differing[kFewRows] = {};
  if (first + filter < p.K) {
    const uint64_t* weight = p.weight + (first + filter) * L;
    for (int64_t word = part; word < L; word += kFilterLanes) {
      const uint64_t w = weight[word];
#pragma unroll
      for (int m = 0; m < kFewRows; ++m) {
        if (m < p.M) differing[m] += __popcll(w ^ p.x[m * L + word]);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < kFewRows; ++m) {
    for (int other = kFilterLanes / 2; other > 0; other /= 2) {
      differing[m] += __shfl_xor_sync(kAllLanes, differing[m], other);
    }
    if (part == 0) dots[m][filter] = static_cast<int>(p.C) - 2 * differing[m];
  }
  __syncthreads();
  const int row = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (row >= p.M) return;
  ChannelEpilogue(epilogue, first + lane, first + lane < p.K).store_row(row, dots[row][lane]);
}

}  // namespace

Status binary_linear(const BinaryLinear& p, const Epilogue& epilogue, const Stream& stream) {
  static_assert(kThreads == kWarp * kFilterLanes && kThreads / kWarp >= kFewRows);
  LAUNCH(few_rows, static_cast<unsigned>(channel_blocks(p.K)), kThreads, 0, stream, p, epilogue);
  return launch_status();
}

}  // namespace bnn::cuda
