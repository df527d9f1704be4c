// What a C++ compiler needs to take the kernels for plain functions: the words of CUDA and the
// threads of a block. `host.cpp` runs them; only tests are built from this.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __device__
#define __global__
#define __launch_bounds__(threads, blocks)
// Blocks run one after the other, so that one copy serves all.
#define __shared__ static

using std::max;
using std::min;

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

struct alignas(16) float4 {
    float x, y, z, w;
};

struct int2 {
    int x, y;
};

struct Index {
    unsigned x, y, z;
};

// Of the thread that runs.
extern Index threadIdx;
extern Index blockIdx;

void __syncthreads();
double __shfl_xor_sync(unsigned mask, double value, int distance);

inline float __int_as_float(int bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

namespace host {

// IEEE 754 numbers of 16 bits to those of 32, which hold all of them.
inline float widen(unsigned short bits) {
    const unsigned sign = (bits & 0x8000u) << 16;
    const unsigned exponent = bits >> 10 & 0x1fu;
    const unsigned fraction = bits & 0x3ffu;
    if (exponent == 0) {
        const float value = std::ldexp(static_cast<float>(fraction), -24);
        return sign ? -value : value;
    }
    const unsigned wide = exponent == 31 ? 255u : exponent + 112u;
    return __int_as_float(static_cast<int>(sign | wide << 23 | fraction << 13));
}

// And back, to the nearest, of two equally near to the even one.
inline unsigned short narrow(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    const unsigned short sign = bits >> 16 & 0x8000u;
    const float size = std::fabs(value);
    if (value != value) return 0x7fffu;
    if (size >= 65520.0f) return sign | 0x7c00u;
    // The distance between two numbers of 16 bits here, as a power of two.
    const int step = size < 6.103515625e-5f ? -24 : std::ilogb(size) - 10;
    // `nearbyint` rounds as IEEE 754 does by default.
    const unsigned steps = static_cast<unsigned>(std::nearbyint(std::ldexp(size, -step)));
    // What rounds up to a power of two carries into the exponent, as it should.
    const unsigned rest = step == -24 ? steps : (static_cast<unsigned>(step + 24) << 10) + steps;
    return sign | static_cast<unsigned short>(rest);
}

} // namespace host
