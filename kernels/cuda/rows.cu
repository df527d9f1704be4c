// Rows cut to their first values, scaled to length 1, and looked through for faults.
// // rows: [count, width] -> out: [count, dimensions], faults: [count]
//
// A warp takes a row. Squares are summed in double precision, where no number of 32 bits overflows
// or vanishes, as in the definition. A row without a direction is copied as it is and named: 0 is
// a sound row, 1 one with NaN or an infinity, 2 one of zeros.

#include "numbers.cuh"

constexpr int THREADS = 256;
constexpr int BLOCKS = 4;
constexpr int LANES = 32;

constexpr int SOUND = 0;
constexpr int NON_FINITE = 1;
constexpr int ZERO_NORM = 2;

template <int WIDTH, typename Number, typename Out>
__device__ void unit(const Number* __restrict__ rows, Out* __restrict__ out,
                     int* __restrict__ faults, int count, int width, int dimensions) {
    const int lane = threadIdx.x % LANES;
    const int row = blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
    // The whole warp leaves or stays.
    if (row >= count) return;
    const Number* from = rows + static_cast<size_t>(row) * width;
    Out* to = out + static_cast<size_t>(row) * dimensions;

    float values[WIDTH];
    double squares = 0.0;
#pragma unroll 4
    for (int column = lane * WIDTH; column < dimensions; column += LANES * WIDTH) {
        load<WIDTH>(from + column, values);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
            squares += static_cast<double>(values[i]) * static_cast<double>(values[i]);
        }
    }
    squares = warp_sum(squares);
    // The difference of an infinity, or of NaN, with itself is NaN.
    const int fault = squares - squares != 0.0 ? NON_FINITE : squares == 0.0 ? ZERO_NORM : SOUND;
    const double inverse = fault == SOUND ? 1.0 / sqrt(squares) : 1.0;

#pragma unroll 4
    for (int column = lane * WIDTH; column < dimensions; column += LANES * WIDTH) {
        load<WIDTH>(from + column, values);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) values[i] = static_cast<float>(values[i] * inverse);
        store<WIDTH>(values, to + column);
    }
    if (lane == 0) faults[row] = fault;
}

// Rows of any length, number by number.
KERNEL(THREADS, BLOCKS)
unit_rows_f16(const Half* rows, float* out, int* faults, int count, int width, int dimensions) {
    unit<1>(rows, out, faults, count, width, dimensions);
}

KERNEL(THREADS, BLOCKS)
unit_rows_f32(const float* rows, float* out, int* faults, int count, int width, int dimensions) {
    unit<1>(rows, out, faults, count, width, dimensions);
}

// Rows whose beginnings are multiples of 16 bytes, cut at such a place.
KERNEL(THREADS, BLOCKS)
unit_rows_f16_packs(const Half* rows, float* out, int* faults, int count, int width, int
                    dimensions) {
    unit<8>(rows, out, faults, count, width, dimensions);
}

KERNEL(THREADS, BLOCKS)
unit_rows_f32_packs(const float* rows, float* out, int* faults, int count, int width, int
                    dimensions) {
    unit<4>(rows, out, faults, count, width, dimensions);
}

// The same rounded to 16 bits, half as much to send over the bus.
KERNEL(THREADS, BLOCKS)
half_unit_rows_f16(const Half* rows, Half* out, int* faults, int count, int width, int dimensions)
                   {
    unit<1>(rows, out, faults, count, width, dimensions);
}

KERNEL(THREADS, BLOCKS)
half_unit_rows_f16_packs(const Half* rows, Half* out, int* faults, int count, int width, int
                         dimensions) {
    unit<8>(rows, out, faults, count, width, dimensions);
}
