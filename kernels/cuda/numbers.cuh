// What all kernels share: numbers of 16 bits, where sequences are, sums over a warp.
//
// The sources need no header of CUDA, so NVRTC alone compiles them; `host.h` lets a C++ compiler
// do it, too, so that their arithmetic is tested where there is no device.

#pragma once

#ifndef __CUDACC__
#include "host.h"
#endif

// An entry of the compiled module, launched with blocks of this many threads, of which so many
// are to share a processor: the compiler gives each thread as many registers as that leaves.
#define KERNEL(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)

// The bits of an IEEE 754 number of 16 bits, as ONNX has it.
struct Half {
    unsigned short bits;
};

#ifdef __CUDACC__
__device__ inline float widen(Half half) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half.bits));
    return value;
}

__device__ inline Half narrow(float value) {
    Half half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half.bits) : "f"(value));
    return half;
}
#else
inline float widen(Half half) { return host::widen(half.bits); }
inline Half narrow(float value) { return Half{host::narrow(value)}; }
#endif

__device__ inline float widen(float value) { return value; }

// 16 bytes, which a thread reads at once: `COUNT` numbers.
template <typename Number>
struct Pack;

template <>
struct Pack<Half> {
    static constexpr int COUNT = 8;
    uint4 words;

    __device__ void widen_to(float* values) const {
        const unsigned all[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int word = 0; word < 4; word++) {
            values[2 * word] = widen(Half{static_cast<unsigned short>(all[word] & 0xffffu)});
            values[2 * word + 1] = widen(Half{static_cast<unsigned short>(all[word] >> 16)});
        }
    }
};

template <>
struct Pack<float> {
    static constexpr int COUNT = 4;
    float4 words;

    __device__ void widen_to(float* values) const {
        values[0] = words.x;
        values[1] = words.y;
        values[2] = words.z;
        values[3] = words.w;
    }
};

// `WIDTH` numbers from `at` on: one, or a pack at an address that is a multiple of 16.
template <int WIDTH, typename Number>
__device__ inline void load(const Number* __restrict__ at, float* values) {
    if constexpr (WIDTH == 1) {
        values[0] = widen(*at);
    } else {
        static_assert(WIDTH == Pack<Number>::COUNT, "a pack is 16 bytes");
        reinterpret_cast<const Pack<Number>*>(at)->widen_to(values);
    }
}

// Writes `WIDTH` numbers from `at` on, likewise; 16 bytes at a time unless it is one.
template <int WIDTH>
__device__ inline void store(const float* values, float* at) {
    if constexpr (WIDTH == 1) {
        *at = values[0];
    } else {
#pragma unroll
        for (int i = 0; i < WIDTH; i += 4) {
            const float4 words = {values[i], values[i + 1], values[i + 2], values[i + 3]};
            *reinterpret_cast<float4*>(at + i) = words;
        }
    }
}

template <int WIDTH>
__device__ inline void store(const float* values, Half* at) {
    if constexpr (WIDTH == 1) {
        *at = narrow(values[0]);
    } else {
        static_assert(WIDTH == 8, "a pack is 16 bytes");
        unsigned words[4];
#pragma unroll
        for (int word = 0; word < 4; word++) {
            const unsigned low = narrow(values[2 * word]).bits;
            const unsigned high = narrow(values[2 * word + 1]).bits;
            words[word] = low | high << 16;
        }
        *reinterpret_cast<uint4*>(at) = uint4{words[0], words[1], words[2], words[3]};
    }
}

// Tokens `first` up to `end` of a sequence. Offsets that lie are cut to the tokens there are, so
// that nothing is read out of place; the caller has checked them, but a device that faults once
// is lost to the whole process.
struct Span {
    int first;
    int end;

    __device__ int length() const { return end - first; }
};

__device__ inline Span span_of(const int* __restrict__ cu_seqlens, int sequence, int tokens) {
    const int first = min(max(cu_seqlens[sequence], 0), tokens);
    const int end = min(max(cu_seqlens[sequence + 1], first), tokens);
    return Span{first, end};
}

// The larger of two, or NaN when one of them is.
__device__ inline float max_or_nan(float largest, float value) {
    return value > largest || value != value ? value : largest;
}

__device__ inline float not_a_number() { return __int_as_float(0x7fc00000); }

__device__ inline float minus_infinity() {
    return __int_as_float(static_cast<int>(0xff800000u));
}

// The sum over the 32 lanes of a warp, the same in each. All of them must come here.
__device__ inline double warp_sum(double value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    return value;
}
