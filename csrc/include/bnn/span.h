#pragma once

#include <cstddef>
#include <cstdint>

// Typed pointers that cross the border between glue and kernels: data plus element type, sizes travel beside.

namespace bnn {

enum class DType : uint8_t { f32, bf16, f16, i8 };

constexpr size_t size_of(DType t) { return t == DType::f32 ? 4 : t == DType::i8 ? 1 : 2; }

struct ConstSpan {
  const void* data = nullptr;
  DType dtype = DType::f32;

  constexpr explicit operator bool() const { return data != nullptr; }
  ConstSpan at(int64_t i) const {
    return {static_cast<const char*>(data) + i * static_cast<int64_t>(size_of(dtype)), dtype};
  }
};

struct Span {
  void* data = nullptr;
  DType dtype = DType::f32;

  constexpr explicit operator bool() const { return data != nullptr; }
  Span at(int64_t i) const { return {static_cast<char*>(data) + i * static_cast<int64_t>(size_of(dtype)), dtype}; }
};

}  // namespace bnn
