#pragma once

// Raise the instruction set for a region of a file, after all includes: per-file -m flags would leak into the inline
// functions of shared headers, and the linker may keep those copies for everybody.

#define BNN_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define BNN_TARGET_BEGIN(features) \
  BNN_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define BNN_TARGET_END BNN_PRAGMA(clang attribute pop)
#else
#define BNN_TARGET_BEGIN(features) BNN_PRAGMA(GCC push_options) BNN_PRAGMA(GCC target(features))
#define BNN_TARGET_END BNN_PRAGMA(GCC pop_options)
#endif

#define BNN_AVX2_BEGIN BNN_TARGET_BEGIN("avx2,f16c,popcnt")
#define BNN_AVX512_BEGIN BNN_TARGET_BEGIN("avx2,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,avx512vnni")
#define BNN_AMX_BEGIN \
  BNN_TARGET_BEGIN("avx2,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,avx512vnni,amx-tile,amx-int8")
