#pragma once

#include "bnn/half.h"
#include "bnn/span.h"

namespace bnn {

// Calls f with a value of the element type that t names (float types only) and returns what it returns.
template <class F>
inline auto with_type(DType t, F&& f) {
  switch (t) {
    case DType::f32:
      return f(float{});
    case DType::bf16:
      return f(Bf16{});
    default:
      return f(Half{});
  }
}

}  // namespace bnn
