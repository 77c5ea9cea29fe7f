#include "bnn/cuda.h"
#include "cuda/emulator/emulator.h"

// The one device of the emulator.

namespace bnn::cuda {

const char* status_text(Status) { return "the emulated launch was refused"; }

Status device_count(int& count) {
  count = 1;
  return 0;
}

Status describe_device(int, const Device*& device) {
  thread_local Device emulator;
  emulator = {"emulator", emu::capability(), 2, true};
  device = &emulator;
  return 0;
}

CurrentDevice::CurrentDevice(int) {}
CurrentDevice::~CurrentDevice() = default;

}  // namespace bnn::cuda
