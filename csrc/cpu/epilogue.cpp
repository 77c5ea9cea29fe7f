#include "bnn/epilogue.h"

#include <algorithm>

#include "cpu/ukernels.h"

namespace bnn::cpu {

void store_rows(const Epilogue& e, const Dots& dots, const OutputPart& part) {
  switch (e.kind) {
    case Epilogue::Kind::integer:
      return dots.visit([&](const auto* dot) {
        int32_t* sums = e.sums + part.row * e.channels + part.channel;
        for (int64_t r = 0; r < part.rows; ++r, dot += dots.ld, sums += e.channels) {
          std::copy_n(dot, part.channels, sums);
        }
      });
    case Epilogue::Kind::scaled:
      return ukernels().epilogue_scaled(e, dots, part);
    case Epilogue::Kind::fused:
      return ukernels().epilogue_fused(e, dots, part);
  }
}

}  // namespace bnn::cpu
