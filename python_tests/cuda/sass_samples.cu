// Kernels for the tests of the SASS check.
#include "cuda/device.h"

namespace samples {

__global__ void products(const uint32_t* a, const uint32_t* b, int* d, int n) {
  __shared__ uint32_t words[64];
  uint32_t x[4], y[2];
  int sum[4] = {};
  words[threadIdx.x] = a[threadIdx.x];
  __syncthreads();
#pragma unroll 1
  for (int i = 0; i < n; ++i) {
    for (int r = 0; r < 4; ++r) x[r] = words[(threadIdx.x + r + i) % 64];
    for (int r = 0; r < 2; ++r) y[r] = b[2 * i + r];
    bnn::cuda::mma_s8(sum, x, y);
    bnn::cuda::mma_b1_and(sum, x, y);
  }
#pragma unroll 1
  for (int i = 0; i < n; ++i) d[i] = a[i];
  for (int r = 0; r < 4; ++r) d[4 * threadIdx.x + r] = sum[r];
}

__device__ __noinline__ int called(int v) { return v * v + clock(); }

__global__ void calls(int* d) { d[threadIdx.x] = called(d[threadIdx.x]); }

__global__ void local_memory(const int* x, int* y, int n) {
  int kept[32];
  for (int i = 0; i < 32; ++i) kept[i] = x[32 * threadIdx.x + i];
  for (int i = 0; i < n; ++i) y[i] = kept[x[i] % 32];
}

}  // namespace samples
