#include "cpu/generic/rows.inl"

void epilogue_scaled(const Epilogue& e, const Dots& dots, const OutputPart& part) {
  with_type(e.y.dtype, [&](auto tag) {
    using T = decltype(tag);
    dots.visit([&](const auto* dot) {
      const float* alpha = e.alpha == nullptr ? nullptr : e.alpha + part.channel;
      T* y = static_cast<T*>(e.y.data) + part.row * e.channels + part.channel;
      for (int64_t r = 0; r < part.rows; ++r, dot += dots.ld, y += e.channels) {
        for_lanes(part.channels, [&](int64_t k, auto n) {
          const Vec::F acc = Vec::load(dot + k, n);
          Vec::store(y + k, alpha == nullptr ? acc : Vec::mul(Vec::load(alpha + k, n), acc), n);
        });
      }
    });
  });
}

// dot: of channel k
template <class D, class N>
inline Vec::F fused_lanes(const Epilogue& e, const D* dot, int64_t k, int64_t i, N n) {
  Vec::F y = Vec::mul(Vec::load(e.scale + k, n), Vec::load(dot, n));
  y = Vec::add(y, Vec::load(e.bias + k, n));
  if (e.residual) y = Vec::add(y, load_any(e.residual, i, n));
  if (e.rprelu != nullptr) {
    const float* r = e.rprelu + k;
    const Vec::F t = Vec::add(y, Vec::load(r, n));
    const Vec::F slope = Vec::mul(Vec::load(r + e.channels, n), t);
    y = Vec::add(Vec::select(Vec::less(Vec::all(0.0f), t), slope, t), Vec::load(r + 2 * e.channels, n));
  }
  if (e.stream) store_any(e.stream, i, y, n);
  return y;
}

constexpr int kHalfWord = kWordBits / 2;

// A word of channels, or half of one, whose factors stay in registers over the rows. With denormal numbers, y < -shift
// is y + shift < 0.
template <int kChannels>
struct SignOf {
  static constexpr int kParts = kChannels / Vec::kLanes;
  Vec::F scale[kParts], bias[kParts], limit[kParts];

  SignOf(const Epilogue& e, int64_t c) {
#pragma GCC unroll 8
    for (int i = 0; i < kParts; ++i) load(e, c + i * Vec::kLanes, i, Full{});
  }

  // A word of which there are only `channels`: the others are 1 times the dot product
  SignOf(const Epilogue& e, int64_t c, int64_t channels) {
    for (int i = 0; i < kParts; ++i) {
      scale[i] = Vec::all(1.0f), bias[i] = limit[i] = Vec::all(0.0f);
      const auto n = static_cast<int>(std::clamp<int64_t>(channels - i * Vec::kLanes, 0, Vec::kLanes));
      if (n == 0) continue;
      load(e, c + i * Vec::kLanes, i, n);
      scale[i] = Vec::select(low_bits(n), Vec::all(1.0f), scale[i]);
    }
  }

  template <class N>
  void load(const Epilogue& e, int64_t c, int i, N n) {
    scale[i] = Vec::load(e.scale + c, n);
    bias[i] = Vec::load(e.bias + c, n);
    const Vec::F zero = Vec::all(0.0f);
    limit[i] = e.next_shift == nullptr ? zero : Vec::sub(zero, Vec::load(e.next_shift + c, n));
  }

  uint64_t negative(int part, Vec::F dot) const {
    return Vec::less(Vec::add(Vec::mul(scale[part], dot), bias[part]), limit[part]);
  }
};

using Sign = SignOf<kWordBits>;

// The same as a limit of the integer: bit = dot < limit, or its inverse where `falling` is set.
//
// Every step of Sign rounds monotonically, so one change of sign between two integers is the only one. False if it
// isn't found beside the estimate: no change at all, factors that are not finite, or where float32 skips integers.
inline bool find_limits(const Sign& sign, int32_t* limit, uint64_t& falling) {
  constexpr uint64_t kAll = (uint64_t{1} << Vec::kLanes) - 1;
  const Vec::F exact = Vec::all(0x1p23f);
  bool all = true;
  falling = 0;
  for (int i = 0; i < Sign::kParts; ++i) {
    int32_t* to = limit + i * Vec::kLanes;
    const uint64_t down = Vec::less(sign.scale[i], Vec::all(0.0f));
    const auto before = [&](Vec::F dot) { return sign.negative(i, dot) ^ down; };
    const Vec::F one = Vec::all(1.0f);
    Vec::store(to, Vec::div(Vec::sub(sign.limit[i], sign.bias[i]), sign.scale[i]), Full{});
    const Vec::F t = Vec::load(to, Full{}), below = Vec::sub(t, one), above = Vec::add(t, one);
    all = all && Vec::less(Vec::abs(t), exact) == kAll && before(Vec::sub(below, one)) == kAll && before(above) == 0;
    Vec::store(to, Vec::select(before(t), Vec::select(before(below), below, t), above), Full{});
    falling |= down << (i * Vec::kLanes);
  }
  return all;
}

inline bool words_alone(const Epilogue& e) {
  return !e.residual && e.rprelu == nullptr && !e.stream && e.words != nullptr;
}

bool sign_limits(const Epilogue& e, int64_t c, int32_t* limits, uint64_t* falling) {
  if (e.kind != Epilogue::Kind::fused || !words_alone(e)) return false;
  return find_limits(Sign(e, c, std::min<int64_t>(kWordBits, e.channels - c)), limits, *falling);
}

// words[r * step] = start, turned by bits(row r)
template <class D, class Bits>
inline void sign_rows(const D* dot, int64_t ld, int64_t rows, uint64_t start, uint64_t* words, int64_t step,
                      const Bits& bits) {
  for (int64_t r = 0; r < rows; ++r, dot += ld, words += step) *words = start ^ bits(dot);
}

// dot: of channel c
template <class D>
void fused_words(const Epilogue& e, const D* dot, int64_t ld, int64_t row, int64_t rows, int64_t c) {
  constexpr int64_t kWorthwhile = 32;  // rows
  const Sign sign(e, c);
  const int64_t step = words_for(e.channels);
  uint64_t* words = e.words + row * step + c / kWordBits;
  if constexpr (sizeof(D) == sizeof(int32_t)) {
    int32_t limits[kWordBits];
    uint64_t falling;
    if (rows >= kWorthwhile && find_limits(sign, limits, falling)) {
      return sign_rows(dot, ld, rows, falling, words, step,
                       [&](const D* sums) { return Vec::less_word(sums, limits); });
    }
  }
  sign_rows(dot, ld, rows, 0, words, step, [&](const D* sums) {
    uint64_t word = 0;
#pragma GCC unroll 8
    for (int i = 0; i < Sign::kParts; ++i) {
      word |= sign.negative(i, Vec::load(sums + i * Vec::kLanes, Full{})) << (i * Vec::kLanes);
    }
    return word;
  });
}

// A word of channels of a stream, or half of one, of a residual block with a shortcut of the same type: all factors in
// registers over the rows.
template <class T, int kChannels, bool kResidual, bool kRprelu, class D>
void fused_block(const Epilogue& e, const D* dot, int64_t ld, int64_t row, int64_t rows, int64_t c) {
  using Sign = SignOf<kChannels>;
  const Sign sign(e, c);
  Vec::F before[Sign::kParts], slope[Sign::kParts], after[Sign::kParts];
#pragma GCC unroll 8
  for (int i = 0; kRprelu && i < Sign::kParts; ++i) {
    const float* r = e.rprelu + c + i * Vec::kLanes;
    before[i] = Vec::load(r, Full{});
    slope[i] = Vec::load(r + e.channels, Full{});
    after[i] = Vec::load(r + 2 * e.channels, Full{});
  }
  const int64_t L = words_for(e.channels);
  const Vec::F zero = Vec::all(0.0f);
  const T* residual = kResidual ? static_cast<const T*>(e.residual.data) + row * e.channels + c : nullptr;
  T* stream = static_cast<T*>(e.stream.data) + row * e.channels + c;
  uint64_t* words = e.words == nullptr ? nullptr : e.words + row * L + c / kWordBits;
  for (int64_t r = 0; r < rows; ++r, dot += ld, stream += e.channels) {
    uint64_t word = 0;
#pragma GCC unroll 8
    for (int i = 0; i < Sign::kParts; ++i) {
      const int k = i * Vec::kLanes;
      Vec::F y = Vec::add(Vec::mul(sign.scale[i], Vec::load(dot + k, Full{})), sign.bias[i]);
      if constexpr (kResidual) y = Vec::add(y, Vec::load(residual + r * e.channels + k, Full{}));
      if constexpr (kRprelu) {
        const Vec::F t = Vec::add(y, before[i]);
        y = Vec::add(Vec::select(Vec::less(zero, t), Vec::mul(slope[i], t), t), after[i]);
      }
      Vec::store(stream + k, y, Full{});
      word |= Vec::less(y, sign.limit[i]) << k;
    }
    if (words != nullptr) words[r * L] = word;
  }
}

// Every word of channels by block(c), if there are only whole ones
template <class Block>
bool by_words(const OutputPart& part, const Block& block) {
  if (part.channels % kWordBits != 0) return false;
  for (int64_t c = part.channel; c < part.channel + part.channels; c += kWordBits) block(c);
  return true;
}

template <class D>
void fused_rows(const Epilogue& e, const D* dot, int64_t ld, const OutputPart& part) {
  int64_t row = part.row;
  const int64_t rows = part.rows;
  const auto of = [&](int64_t c) { return dot + (c - part.channel); };
  const bool one_type = e.stream && (!e.residual || e.residual.dtype == e.stream.dtype);
  if (words_alone(e) && by_words(part, [&](int64_t c) { fused_words(e, of(c), ld, row, rows, c); })) return;
  const auto block = [&](auto channels, int64_t c) {
    with_type(e.stream.dtype, [&](auto tag) {
      const auto chosen = [&](auto residual, auto rprelu) {
        fused_block<decltype(tag), channels.value, residual.value, rprelu.value>(e, of(c), ld, row, rows, c);
      };
      if (e.residual) {
        e.rprelu != nullptr ? chosen(std::true_type{}, std::true_type{}) : chosen(std::true_type{}, std::false_type{});
      } else {
        e.rprelu != nullptr ? chosen(std::false_type{}, std::true_type{})
                            : chosen(std::false_type{}, std::false_type{});
      }
    });
  };
  const std::integral_constant<int, kWordBits> whole;
  const std::integral_constant<int, kHalfWord> half;
  if (one_type && by_words(part, [&](int64_t c) { block(whole, c); })) return;
  if (one_type && part.channels == kHalfWord) return block(half, part.channel);
  const int64_t K = e.channels, L = words_for(K), end = part.channel + part.channels;
  const Vec::F zero = Vec::all(0.0f);
  for (int64_t r = 0; r < rows; ++r, ++row, dot += ld) {
    for (int64_t c = part.channel; c < end; c += kWordBits) {
      const uint64_t word = word_of(std::min<int64_t>(kWordBits, end - c), [&](int64_t k, auto n) {
        Vec::F y = fused_lanes(e, of(c + k), c + k, row * K + c + k, n);
        if (e.next_shift != nullptr) y = Vec::add(y, Vec::load(e.next_shift + c + k, n));
        return Vec::less(y, zero);
      });
      if (e.words != nullptr) e.words[row * L + c / kWordBits] = word;
    }
  }
}

void epilogue_fused(const Epilogue& e, const Dots& dots, const OutputPart& part) {
  dots.visit([&](const auto* dot) { fused_rows(e, dot, dots.ld, part); });
}
