// Kernels for the tests of the PTX runner: right ones, and ones with a planted bug.
#include "cuda/device.h"

namespace samples {

using bnn::cuda::kAllLanes;

// Bits of x > 0, [rows][ceil(cols / 32)] words
__global__ void pack_bits(const float* x, uint32_t* out, int rows, int cols) {
  const int words = (cols + 31) / 32;
  const int word = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
  if (word >= rows * words) return;
  const int row = word / words, col = word % words * 32 + lane;
  const uint32_t bits = __ballot_sync(kAllLanes, col < cols && x[row * cols + col] > 0.f);
  if (lane == 0) out[word] = bits;
}

enum class Bug { none, no_barrier, past_row };

// C[m][n] = K - 2 popcount(A[m] ^ B[n]) over KW words
template <Bug kBug>
__global__ void tiled_gemm(const uint32_t* A, const uint32_t* B, int* C, int M, int N, int KW) {
  constexpr int T = 8;
  __shared__ uint32_t a[T][T + 1], b[T][T + 1];
  const int tx = threadIdx.x, ty = threadIdx.y, m = blockIdx.y * T + ty, n = blockIdx.x * T + tx;
  int sum = 0;
  for (int k0 = 0; k0 < KW; k0 += T) {
    a[ty][tx] = m < M && k0 + tx < KW ? A[m * KW + k0 + tx] : 0u;
    const int bn = blockIdx.x * T + ty;
    b[ty][tx] = bn < N && k0 + tx < KW ? B[bn * KW + k0 + tx] : 0u;
    __syncthreads();
    for (int k = 0; k < T; ++k) sum += __popc(a[ty][k] ^ b[tx][k]);
    if (kBug != Bug::no_barrier) __syncthreads();
  }
  if (m < M && n < N + (kBug == Bug::past_row)) C[m * N + n] = 32 * KW - 2 * sum;
}

// One block sums a row: cp.async into dynamic shared memory, shuffles
template <bool kWait, bool kPast>
__global__ void row_sum(const float* x, float* out, int cols) {
  DYNAMIC_SHARED(float, row);
  __shared__ float part[32];
  for (int i = threadIdx.x * 4; i < cols + kPast; i += blockDim.x * 4) {
    bnn::cuda::copy_async<16>(row + i, x + blockIdx.x * cols + i % cols);
  }
  bnn::cuda::copy_async_commit();
  if (kWait) bnn::cuda::copy_async_wait<0>();
  __syncthreads();
  float sum = 0;
  for (int i = threadIdx.x; i < cols; i += blockDim.x) sum += row[i];
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  float total = 0;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) total += part[w];
  out[blockIdx.x] = total;
}

// Two buffers, the next in flight while one is read: a group is waited for while a later one is pending.
__global__ void pipelined_sum(const int* x, int* out, int steps) {
  __shared__ int buffer[2][64];
  bnn::cuda::copy_async<4>(&buffer[0][threadIdx.x], x + threadIdx.x);
  bnn::cuda::copy_async_commit();
  int sum = 0;
  for (int s = 0; s < steps; ++s) {
    if (s + 1 < steps) bnn::cuda::copy_async<4>(&buffer[(s + 1) % 2][threadIdx.x], x + (s + 1) * 64 + threadIdx.x);
    bnn::cuda::copy_async_commit();
    bnn::cuda::copy_async_wait<1>();
    __syncthreads();
    sum += buffer[s % 2][63 - threadIdx.x] * (s + 1);
    __syncthreads();
  }
  out[threadIdx.x] = sum;
}

// Counts values 0..15; place[i] = how many equal values the block had counted before
__global__ void histogram(const uint8_t* x, int* count, int* place, int n) {
  __shared__ int local[16];
  if (threadIdx.x < 16) local[threadIdx.x] = 0;
  __syncthreads();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) place[i] = atomicAdd(&local[x[i]], 1);
  __syncthreads();
  if (threadIdx.x < 16) atomicAdd(&count[threadIdx.x], local[threadIdx.x]);
}

__global__ void convert(const float* x, bnn::Half* half, bnn::Bf16* bf16, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  bnn::cuda::narrow(x[i], half[i]);
  bnn::cuda::narrow(x[i], bf16[i]);
}

__global__ void widen(const bnn::Half* half, const bnn::Bf16* bf16, float* from_half, float* from_bf16) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  from_half[i] = bnn::cuda::widen(half[i]);
  from_bf16[i] = bnn::cuda::widen(bf16[i]);
}

// a, b: registers of each lane, [32][4] and [32][2]; d [32][4]
enum class Mma { b1_and, b1_xor, s8 };
template <Mma kMma, bool kSwap>
__global__ void mma(const uint32_t* a_of_lane, const uint32_t* b_of_lane, int* d_of_lane) {
  uint32_t a[4], b[2];
  int d[4];
  for (int r = 0; r < 4; ++r) {
    a[r] = a_of_lane[4 * threadIdx.x + (kSwap && (r == 1 || r == 2) ? 3 - r : r)];
    d[r] = d_of_lane[4 * threadIdx.x + r];
  }
  for (int r = 0; r < 2; ++r) b[r] = b_of_lane[2 * threadIdx.x + r];
#if __CUDA_ARCH__ >= 800
  if constexpr (kMma == Mma::b1_and) bnn::cuda::mma_b1_and(d, a, b);
  if constexpr (kMma == Mma::s8) bnn::cuda::mma_s8(d, a, b);
#endif
  if constexpr (kMma == Mma::b1_xor) bnn::cuda::mma_b1_xor(d, a, b);
  for (int r = 0; r < 4; ++r) d_of_lane[4 * threadIdx.x + r] = d[r];
}

__global__ void load_matrices(const uint32_t* x, uint32_t* out) {
  __shared__ __align__(16) uint32_t rows[32][4];
  for (int k = 0; k < 4; ++k) rows[threadIdx.x][k] = x[4 * threadIdx.x + k];
  __syncwarp();
  uint32_t r[4];
  bnn::cuda::load_matrices(r, rows[threadIdx.x]);
  for (int k = 0; k < 4; ++k) out[4 * threadIdx.x + k] = r[k];
}

// The lanes of a warp hand each other a value through shared memory.
template <bool kSync>
__global__ void exchange(const int* x, int* out) {
  __shared__ int values[32];
  values[threadIdx.x] = x[threadIdx.x];
  if (kSync) __syncwarp();
  out[threadIdx.x] = values[31 - threadIdx.x];
}

__global__ void half_warp_ballot(uint32_t* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __ballot_sync(kAllLanes, threadIdx.x & 1);
}

__global__ void barrier_after_return(int* out, int n) {
  if (static_cast<int>(threadIdx.x) >= n) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void two_barriers(int* out) {
  if (threadIdx.x < 32) {
    out[threadIdx.x] = 1;
    __syncthreads();
  } else {
    out[threadIdx.x] = 2;
    __syncthreads();
    out[threadIdx.x] = 3;
  }
}

__global__ void unwritten_shared(int* out) {
  __shared__ int values[64];
  if (threadIdx.x != 7) values[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x];
}

__global__ void misaligned(const unsigned char* x, int* out) {
  out[threadIdx.x] = *reinterpret_cast<const int*>(x + 4 * threadIdx.x + 1);
}

// Reads with a stride in shared memory and in global memory
__global__ void strided(const float* x, float* out, int stride) {
  DYNAMIC_SHARED(float, values);
  for (int k = 0; k < stride; ++k) values[32 * k + threadIdx.x] = x[32 * k + threadIdx.x];
  __syncwarp();
  out[threadIdx.x * stride] = values[threadIdx.x * stride];
}

template __global__ void tiled_gemm<Bug::none>(const uint32_t*, const uint32_t*, int*, int, int, int);
template __global__ void tiled_gemm<Bug::no_barrier>(const uint32_t*, const uint32_t*, int*, int, int, int);
template __global__ void tiled_gemm<Bug::past_row>(const uint32_t*, const uint32_t*, int*, int, int, int);
template __global__ void row_sum<true, false>(const float*, float*, int);
template __global__ void row_sum<false, false>(const float*, float*, int);
template __global__ void row_sum<true, true>(const float*, float*, int);
template __global__ void mma<Mma::b1_and, false>(const uint32_t*, const uint32_t*, int*);
template __global__ void mma<Mma::b1_and, true>(const uint32_t*, const uint32_t*, int*);
template __global__ void mma<Mma::b1_xor, false>(const uint32_t*, const uint32_t*, int*);
template __global__ void mma<Mma::s8, false>(const uint32_t*, const uint32_t*, int*);
template __global__ void exchange<true>(const int*, int*);
template __global__ void exchange<false>(const int*, int*);

}  // namespace samples
