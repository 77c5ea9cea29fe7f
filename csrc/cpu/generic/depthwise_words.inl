// Vectors of words are the compiler's own, or uint64_t.
namespace {

template <class V>
inline V load_words(const uint64_t* from) {
  V v;
  std::memcpy(&v, from, sizeof(v));
  return v;
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

// kTaps: all of them, none outside, or 0 where they are known at run time
template <class V, int kPlanes, int kTaps>
inline void compare_words(const DepthwiseWords& q, int64_t i, int64_t j) {
  const auto mismatches = [&](int64_t t) {
    return load_words<V>(q.x + q.at[t] + i) ^ load_words<V>(q.slices + q.filters[t] + j);
  };
  const auto limit = [&](int b) { return load_words<V>(q.limits + b * q.period + j); };
  Counters<V, kPlanes> counters;
  if constexpr (kTaps == 9) {
    counters.count_nine(mismatches);
  } else {
    counters.count(q.outside / 2, q.taps, mismatches);
  }
  V borrow = limit(0);
  if (kTaps == 0 && q.outside % 2 != 0) borrow = V{};
#pragma GCC unroll 8
  for (int b = 0; b < kPlanes; ++b) {
    const V u = limit(b + 1), less = ~counters.planes[b];
    borrow = (less & (u | borrow)) | (u & borrow);
  }
  const V to = ~(borrow | limit(kLimitBits - 1)) ^ load_words<V>(q.flips + j);
  std::memcpy(q.to + i, &to, sizeof(to));
}

template <class V, int kPlanes, int kTaps>
inline void compare_some(const DepthwiseWords& q, int64_t& i, int64_t& j) {
  constexpr int64_t kWords = sizeof(V) / sizeof(uint64_t);
  for (; q.words - i >= kWords; i += kWords) {
    compare_words<V, kPlanes, kTaps>(q, i, j);
    j = j + kWords < q.period ? j + kWords : 0;
  }
}

template <int kPlanes, int kTaps, class... V>
void compare(const DepthwiseWords& q) {
  int64_t i = 0, j = 0;
  (compare_some<V, kPlanes, kTaps>(q, i, j), ...);
}

// V: from the widest on
template <class... V>
void depthwise_words_by(const DepthwiseWords& q) {
  constexpr int kFew = 4;  // planes
  if (q.taps + q.outside >= 1 << kFew) return compare<kLimitBits - 2, 0, V...>(q);
  q.taps == 9 && q.outside == 0 ? compare<kFew, 9, V...>(q) : compare<kFew, 0, V...>(q);
}

}  // namespace
