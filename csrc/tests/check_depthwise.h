#pragma once

// The microkernels of depthwise convolution against scalar ones.

#include <algorithm>
#include <vector>

#include "cpu/ukernels.h"
#include "tests/random.h"

namespace bnn::cpu {
namespace {

bool check(ukernel::counters_to_dot* f, ukernel::counters_to_dot* truth) {
  const int count = static_cast<int>(up_to(20));
  const int64_t step = 1 + up_to(5);
  const auto planes = words(count * step);
  std::vector<int32_t> x(kWordBits), y = x;
  f(planes.data(), step, count, 321, x.data());
  truth(planes.data(), step, count, 321, y.data());
  return x == y;
}

bool check(ukernel::depthwise_products* f, ukernel::depthwise_products* truth) {
  constexpr int64_t kPeriods[] = {8, 24, 40, 9, 17};
  const bool limited = up_to(1) == 0, filled = up_to(2) == 0;
  const int64_t inside = up_to(1) == 0 ? 9 : up_to(limited ? kMostLimitedTaps : 100), reach = up_to(50);
  DepthwiseProducts q{};
  q.taps = inside, q.outside = up_to(1) * up_to(std::clamp<int64_t>(kMostLimitedTaps - inside, 0, 20));
  q.period = kPeriods[up_to(4)], q.words = up_to(q.period % 8 == 0 ? 100 : q.period);
  q.fill = up_to(1) == 0 ? ~uint64_t{0} : 0;
  std::vector<int64_t> at(static_cast<size_t>(inside)), filters = at;
  for (int64_t& v : at) v = filled && up_to(3) == 0 ? kOutside : up_to(reach);
  for (int64_t t = 0; t < inside; ++t) filters[t] = t * q.period;
  const auto x = words(reach + q.words), slices = words(inside * q.period), flips = words(q.period);
  std::vector<uint64_t> limits(static_cast<size_t>(kLimitBits * q.period));
  for (int64_t i = 0; i < q.period * kWordBits; ++i) {
    const int64_t limit = up_to(4) == 0 ? kNever : up_to(2 * (inside + q.outside));
    for (int b = 0; b < kLimitBits; ++b) {
      limits[b * q.period + i / kWordBits] |= static_cast<uint64_t>(limit >> b & 1) << i % kWordBits;
    }
  }
  q.at = at.data(), q.filters = filters.data(), q.x = x.data(), q.slices = slices.data();
  if (limited) q.limits = limits.data(), q.flips = flips.data();
  const auto run = [&](ukernel::depthwise_products* g) {
    std::vector<uint64_t> out(static_cast<size_t>((limited ? 1 : plane_count(q.taps + q.outside)) * q.words));
    (limited ? q.to : q.planes) = out.data();
    g(q);
    return out;
  };
  return run(f) == run(truth);
}

}  // namespace
}  // namespace bnn::cpu
