#include "bnn/epilogue.h"

#include <cstring>

#include "cpu/ukernels.h"

namespace bnn::cpu {

void store_rows(const Epilogue& e, const int32_t* dot, int64_t ld, int64_t row, int64_t rows) {
  switch (e.kind) {
    case Epilogue::Kind::integer:
      for (int64_t r = 0; r < rows; ++r) {
        std::memcpy(e.sums + (row + r) * e.channels, dot + r * ld, static_cast<size_t>(e.channels) * sizeof(int32_t));
      }
      return;
    case Epilogue::Kind::scaled:
      return ukernels().epilogue_scaled(e, dot, ld, row, rows);
    case Epilogue::Kind::fused:
      return ukernels().epilogue_fused(e, dot, ld, row, rows);
  }
}

}  // namespace bnn::cpu
