// Vectors of words are the compiler's own, or uint64_t.
namespace {

template <class V>
inline V load_words(const uint64_t* from) {
  V v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

template <class V>
inline void store_words(uint64_t* to, V v) {
  std::memcpy(to, &v, sizeof(v));
}

// Bits of a + b + c
template <class V>
struct Sum {
  V low, high;

  Sum(V a, V b, V c) : low(a ^ b ^ c), high((a & b) | (c & (a ^ b))) {}
};

// Counters side by side, a bit of each in a plane
template <class V, int kPlanes>
struct Counters {
  V planes[kPlanes];

  // 9 bits each
  template <class Bits>
  void count_nine(const Bits& bits) {
    const Sum<V> a(bits(0), bits(1), bits(2)), b(bits(3), bits(4), bits(5)), c(bits(6), bits(7), bits(8));
    const Sum<V> ones(a.low, b.low, c.low), twos(a.high, b.high, c.high);
    const V four = ones.high & twos.low;
    planes[0] = ones.low, planes[1] = ones.high ^ twos.low;
    planes[2] = four ^ twos.high, planes[3] = four & twos.high;
  }

  // start and `taps` bits each
  template <class Bits>
  void count(int64_t start, int64_t taps, const Bits& bits) {
    for (int b = 0; b < kPlanes; ++b) planes[b] = V{} - static_cast<uint64_t>(start >> b & 1);
    int64_t t = 0;
    for (; t + 3 <= taps; t += 3) {
      const Sum<V> sum(bits(t), bits(t + 1), bits(t + 2));
      add<0>(sum.low);
      add<1>(sum.high);
    }
    for (; t < taps; ++t) add<0>(bits(t));
  }

 private:
  template <int kFrom>
  void add(V bits) {
#pragma GCC unroll 8
    for (int b = kFrom; b < kPlanes; ++b) {
      const V carry = planes[b] & bits;
      planes[b] ^= bits;
      bits = carry;
    }
  }
};

template <class V>
inline V load_mismatches(const DepthwiseProducts& q, int64_t t, int64_t i, int64_t j) {
  const V filters = load_words<V>(q.slices + q.filters[t] + j);
  return filters ^ (q.at[t] == kOutside ? V{} + q.fill : load_words<V>(q.x + q.at[t] + i));
}

template <class V, int kPlanes>
inline void compare_words(const DepthwiseProducts& q, const Counters<V, kPlanes>& counters, int64_t i, int64_t j) {
  const auto limit = [&](int b) { return load_words<V>(q.limits + b * q.period + j); };
  V borrow = q.outside % 2 != 0 ? V{} : limit(0);
#pragma GCC unroll 8
  for (int b = 0; b < kPlanes; ++b) {
    const V u = limit(b + 1), less = ~counters.planes[b];
    borrow = (less & (u | borrow)) | (u & borrow);
  }
  store_words(q.to + i, ~(borrow | limit(kLimitBits - 1)) ^ load_words<V>(q.flips + j));
}

// kNine: that many taps, all inside
template <class V, int kPlanes, bool kNine>
inline void count_words(const DepthwiseProducts& q, int64_t i, int64_t j) {
  Counters<V, kPlanes> counters;
  if constexpr (kNine) {
    counters.count_nine(
        [&](int64_t t) { return load_words<V>(q.slices + q.filters[t] + j) ^ load_words<V>(q.x + q.at[t] + i); });
  } else {
    const int64_t start = q.limits == nullptr ? 0 : q.outside / 2;
    counters.count(start, q.taps, [&](int64_t t) { return load_mismatches<V>(q, t, i, j); });
  }
  if constexpr (kPlanes < kLimitBits) {
    if (q.limits != nullptr) return compare_words(q, counters, i, j);
  }
  for (int b = 0; b < kPlanes; ++b) store_words(q.planes + b * q.words + i, counters.planes[b]);
}

template <class V, int kPlanes, bool kNine>
inline void count_some(const DepthwiseProducts& q, int64_t& i, int64_t& j) {
  constexpr int64_t kWords = sizeof(V) / sizeof(uint64_t);
  for (; q.words - i >= kWords; i += kWords) {
    count_words<V, kPlanes, kNine>(q, i, j);
    j = j + kWords < q.period ? j + kWords : 0;
  }
}

template <int kPlanes, bool kNine, class... V>
void count_all(const DepthwiseProducts& q) {
  int64_t i = 0, j = 0;
  (count_some<V, kPlanes, kNine>(q, i, j), ...);
}

// V: from the widest on
template <class... V>
void depthwise_products_by(const DepthwiseProducts& q) {
  const int64_t taps = q.taps + q.outside;
  if (taps > kMostLimitedTaps) return count_all<plane_count(kMostLimitedTaps + 1), false, V...>(q);
  if (taps > 15) return count_all<plane_count(16), false, V...>(q);
  const bool nine = q.taps == 9 && q.outside == 0 && std::count(q.at, q.at + 9, kOutside) == 0;
  nine ? count_all<plane_count(9), true, V...>(q) : count_all<plane_count(9), false, V...>(q);
}

}  // namespace
