#include <cuda_runtime_api.h>

#include <map>
#include <mutex>

#include "bnn/cuda.h"

namespace bnn::cuda {
namespace {

// Compiled for the same architectures as every kernel: tells whether a device can run them.
__global__ void probe() {}

Status look_up(int index, Device& device) {
  cudaDeviceProp properties;
  if (const Status status = cudaGetDeviceProperties(&properties, index)) return status;
  const CurrentDevice here(index);
  cudaFuncAttributes unused;
  device.name = properties.name;
  device.capability = 10 * properties.major + properties.minor;
  device.multiprocessors = properties.multiProcessorCount;
  device.has_code = cudaFuncGetAttributes(&unused, probe) == cudaSuccess;
  cudaGetLastError();  // forgets a failure: it is told by has_code
  return cudaSuccess;
}

}  // namespace

const char* status_text(Status status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

Status device_count(int& count) {
  count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  return status == cudaErrorNoDevice ? cudaSuccess : status;
}

// Looked up once per device.
Status describe_device(int index, const Device*& device) {
  static std::mutex mutex;
  static std::map<int, Device> known;
  const std::lock_guard lock(mutex);
  auto it = known.find(index);
  if (it == known.end()) {
    Device found;
    if (const Status status = look_up(index, found)) return status;
    it = known.emplace(index, found).first;
  }
  device = &it->second;
  return cudaSuccess;
}

CurrentDevice::CurrentDevice(int index) {
  int current = -1;
  if (cudaGetDevice(&current) != cudaSuccess || current == index) return;
  if (cudaSetDevice(index) == cudaSuccess) before_ = current;
}

CurrentDevice::~CurrentDevice() {
  if (before_ >= 0) cudaSetDevice(before_);
}

}  // namespace bnn::cuda
