#pragma once

// The microkernels of 8-bit convolution against scalar ones.

#include <algorithm>
#include <vector>

#include "cpu/ukernels.h"
#include "tests/elements.h"
#include "tests/random.h"

namespace bnn::cpu {
namespace {

std::vector<uint8_t> random_bytes(int64_t n) {
  std::vector<uint8_t> out(static_cast<size_t>(n));
  const int64_t kind = up_to(5);
  for (uint8_t& v : out) v = static_cast<uint8_t>(kind > 1 ? up_to(255) : kind == 1 ? 255 : 128);
  return out;
}

bool check(ukernel::max_abs* f, ukernel::max_abs* truth) {
  const int64_t n = up_to(100);
  const Elements x(some_float_type(), n);
  return f(x.view(), n) == truth(x.view(), n);
}

bool check(ukernel::to_bytes* f, ukernel::to_bytes* truth) {
  const int64_t n = up_to(100);
  const Elements x(some_float_type(), n);
  const float inverse = up_to(3) == 0 ? 0.0f : std::abs(some_float());
  std::vector<uint8_t> a(static_cast<size_t>(n)), b = a;
  f(x.view(), n, inverse, a.data());
  truth(x.view(), n, inverse, b.data());
  return a == b;
}

bool check(ukernel::byte_products* f, ukernel::byte_products* truth) {
  const bool long_runs = up_to(3) == 0;
  const int64_t runs = 1 + up_to(5), run = long_runs ? 16 * (1 + up_to(3)) : 1 + up_to(20), step = 1 + up_to(20);
  ByteProducts q{};
  q.pixels = 1 + up_to(80), q.step = step, q.runs = runs, q.run = run, q.count = 1 + up_to(7);
  q.ld = q.count * kPanel + up_to(9);
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<const uint8_t*> rows;
  for (int64_t r = 0; r < runs; ++r) bytes.push_back(random_bytes((q.pixels - 1) * step + 4 * run));
  for (const auto& row : bytes) rows.push_back(row.data());
  const auto weights = random_bytes(q.count * (1 + runs * run) * kPanelBytes);
  q.rows = rows.data(), q.panels = reinterpret_cast<const int8_t*>(weights.data());
  std::vector<int32_t> x(static_cast<size_t>(q.pixels * q.ld)), y = x;
  ukernels().tile_rows(static_cast<int>(std::min<int64_t>(kTileRows, q.pixels)));  // see check_tiles.h
  q.dot = x.data();
  f(q);
  ukernels().tile_rows(0);
  q.dot = y.data();
  truth(q);
  return x == y;
}

bool check(ukernel::maxima* f, ukernel::maxima* truth) {
  const int64_t count = 1 + up_to(4), n = 16 * up_to(8), groups = up_to(4), step = up_to(20);
  std::vector<std::vector<int32_t>> values;
  std::vector<const int32_t*> rows;
  for (int64_t j = 0; j < count; ++j) values.push_back(integers(groups * step + n));
  for (const auto& row : values) rows.push_back(row.data());
  std::vector<int32_t> x(static_cast<size_t>(groups * n)), y = x;
  f(rows.data(), count, groups, step, n, x.data());
  truth(rows.data(), count, groups, step, n, y.data());
  return x == y;
}

}  // namespace
}  // namespace bnn::cpu
