#pragma once

#include <cstdint>
#include <string>

namespace bnn::cuda {

// Where a kernel is launched: a stream of one device. Entry points only launch; they never wait for the device.
struct Stream {
  void* handle = nullptr;   // cudaStream_t
  int capability = 0;       // of the device, 10 * major + minor: 75, 80, 90, ...
  int multiprocessors = 1;  // of the device
};

// 0, or what went wrong (a cudaError_t).
using Status = int;

const char* status_text(Status status);

inline constexpr int kLeastCapability = 75;

struct Device {
  std::string name;
  int capability = 0;
  int multiprocessors = 1;
  bool has_code = false;  // the kernels are compiled for it
};

// Fail where there is no driver. A description lasts as long as the process.
Status device_count(int& count);
Status describe_device(int index, const Device*& device);

// Makes a device current for the calling thread while this lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(int index);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int before_ = -1;  // -1: it was current already
};

}  // namespace bnn::cuda
