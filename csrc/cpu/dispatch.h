#pragma once

#include "bnn/half.h"
#include "bnn/span.h"

namespace bnn::cpu {

// Calls f with a value of the element type that t names (float types only).
template <class F>
inline void with_type(DType t, F&& f) {
  switch (t) {
    case DType::f32:
      return f(float{});
    case DType::bf16:
      return f(Bf16{});
    default:
      return f(Half{});
  }
}

}  // namespace bnn::cpu
