#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

// 16-bit floats as storage types. All arithmetic is float32; stores round to nearest even.

namespace bnn {

struct Bf16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

inline float to_float(float v) { return v; }

inline float to_float(Bf16 v) { return std::bit_cast<float>(static_cast<uint32_t>(v.bits) << 16); }

inline float to_float(Half v) {
  const uint32_t sign = static_cast<uint32_t>(v.bits & 0x8000u) << 16;
  const uint32_t body = v.bits & 0x7fffu;
  if (body >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (body & 0x3ffu) << 13);
  // Shifted into float position the exponent is 112 too small; the product puts it right, subnormals included.
  const float magnitude = std::bit_cast<float>(body << 13) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
}

inline void from_float(float v, float& out) { out = v; }

inline void from_float(float v, Bf16& out) {
  const uint32_t u = std::bit_cast<uint32_t>(v);
  out.bits = std::isnan(v) ? 0x7fc0 : static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

inline void from_float(float v, Half& out) {
  const uint32_t u = std::bit_cast<uint32_t>(v);
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  const uint32_t body = u & 0x7fffffffu;
  if (body > 0x7f800000u) {
    out.bits = sign | 0x7e00u;
  } else if (body >= 0x477ff000u) {  // 65520 and more round to infinity
    out.bits = sign | 0x7c00u;
  } else if (body < 0x38800000u) {  // subnormal: adding 0.5 aligns the last half bit with the last float bit
    const float aligned = std::bit_cast<float>(body) + 0.5f;
    out.bits = sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(aligned) - 0x3f000000u);
  } else {
    const uint32_t rounded = body + 0xfffu + ((body >> 13) & 1u) - 0x38000000u;
    out.bits = sign | static_cast<uint16_t>(rounded >> 13);
  }
}

}  // namespace bnn
