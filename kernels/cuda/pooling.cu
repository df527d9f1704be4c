// From the hidden states of packed sequences to one vector each: all kinds of `Pooling`.
// // hidden: [tokens, size], cu_seqlens: [sequences + 1] -> out: [sequences, size]
//
// A block takes one sequence (x) and one tile of columns (y). Its threads stand in `LANES` columns
// of packs and as many rows of tokens as are left; 128 bytes of a token's state are read together.
// Sums are in double precision, as in the definition: at 16 bytes a load the memory is what takes
// time. A sequence without tokens becomes NaN, which whoever looks for faults finds.

#include "numbers.cuh"

constexpr int THREADS = 256;
constexpr int BLOCKS = 4;

// The order of `Pooling::ALL`.
constexpr int CLS = 0;
constexpr int MEAN = 1;
constexpr int MAX = 2;
constexpr int LAST_TOKEN = 3;
constexpr int MEAN_SQRT_LEN = 4;
constexpr int WEIGHTED_MEAN = 5;

__device__ inline double divisor(int pooling, int length) {
    const double n = length;
    switch (pooling) {
        case MEAN: return n;
        case MEAN_SQRT_LEN: return sqrt(n);
        default: return n * (n + 1.0) / 2.0;
    }
}

// The largest value of each column over every `ROWS`th token. It begins below all numbers, where
// also a row without tokens stays.
template <int WIDTH, int ROWS, typename Number>
__device__ void largest(const Number* __restrict__ states, int size, Span span, double* found) {
    float values[WIDTH];
    float best[WIDTH];
    for (int i = 0; i < WIDTH; i++) best[i] = minus_infinity();
#pragma unroll 4
    for (int token = span.first; token < span.end; token += ROWS) {
        load<WIDTH>(states + static_cast<size_t>(token) * size, values);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) best[i] = max_or_nan(best[i], values[i]);
    }
    for (int i = 0; i < WIDTH; i++) found[i] = best[i];
}

// The sum of each column over every `ROWS`th token; with weights the first token of the sequence,
// `origin`, counts once and every one after it once more.
template <int WIDTH, int ROWS, bool WEIGHTED, typename Number>
__device__ void sum(const Number* __restrict__ states, int size, Span span, int origin,
                    double* found) {
    float values[WIDTH];
    for (int i = 0; i < WIDTH; i++) found[i] = 0.0;
#pragma unroll 4
    for (int token = span.first; token < span.end; token += ROWS) {
        load<WIDTH>(states + static_cast<size_t>(token) * size, values);
        const double weight = WEIGHTED ? token - origin + 1 : 1;
#pragma unroll
        for (int i = 0; i < WIDTH; i++) found[i] += values[i] * weight;
    }
}

template <int WIDTH, int LANES, typename Number>
__device__ void pool(const Number* __restrict__ hidden, const int* __restrict__ cu_seqlens,
                     float* __restrict__ out, int tokens, int size, int pooling) {
    constexpr int ROWS = THREADS / LANES;
    constexpr int COLUMNS = LANES * WIDTH;
    __shared__ double partial[ROWS * COLUMNS];

    const int lane = threadIdx.x % LANES;
    const int row = threadIdx.x / LANES;
    const int tile = blockIdx.y * COLUMNS;
    const int column = tile + lane * WIDTH;
    const Span span = span_of(cu_seqlens, blockIdx.x, tokens);
    const bool chooses = pooling == CLS || pooling == LAST_TOKEN;

    double found[WIDTH];
    for (int i = 0; i < WIDTH; i++) found[i] = not_a_number();
    // All of a pack is inside or outside: its size divides the row.
    if (column < size && span.length() > 0) {
        const Number* states = hidden + column;
        const Span own = {span.first + row, span.end};
        if (chooses) {
            float values[WIDTH];
            const int token = pooling == CLS ? span.first : span.end - 1;
            load<WIDTH>(states + static_cast<size_t>(token) * size, values);
            for (int i = 0; i < WIDTH; i++) found[i] = values[i];
        } else if (pooling == MAX) {
            largest<WIDTH, ROWS>(states, size, own, found);
        } else if (pooling == WEIGHTED_MEAN) {
            sum<WIDTH, ROWS, true>(states, size, own, span.first, found);
        } else {
            sum<WIDTH, ROWS, false>(states, size, own, span.first, found);
        }
    }
    for (int i = 0; i < WIDTH; i++) partial[row * COLUMNS + lane * WIDTH + i] = found[i];
    __syncthreads();

    const int own = threadIdx.x;
    if (own >= COLUMNS || tile + own >= size) return;
    double all = partial[own];
    // Where a token is chosen every row has it.
    for (int other = 1; other < ROWS && !chooses; other++) {
        const double value = partial[other * COLUMNS + own];
        if (pooling == MAX) {
            all = max_or_nan(static_cast<float>(all), static_cast<float>(value));
        } else {
            all += value;
        }
    }
    if (!chooses && pooling != MAX) all /= divisor(pooling, span.length());
    out[static_cast<size_t>(blockIdx.x) * size + tile + own] = static_cast<float>(all);
}

// Rows of any length, number by number.
KERNEL(THREADS, BLOCKS)
pool_f16(const Half* hidden, const int* cu_seqlens, float* out, int tokens, int size, int pooling)
         {
    pool<1, 32>(hidden, cu_seqlens, out, tokens, size, pooling);
}

KERNEL(THREADS, BLOCKS)
pool_f32(const float* hidden, const int* cu_seqlens, float* out, int tokens, int size, int
         pooling) {
    pool<1, 32>(hidden, cu_seqlens, out, tokens, size, pooling);
}

// Rows whose beginnings are multiples of 16 bytes.
KERNEL(THREADS, BLOCKS)
pool_f16_packs(const Half* hidden, const int* cu_seqlens, float* out, int tokens, int size, int
               pooling) {
    pool<8, 8>(hidden, cu_seqlens, out, tokens, size, pooling);
}

KERNEL(THREADS, BLOCKS)
pool_f32_packs(const float* hidden, const int* cu_seqlens, float* out, int tokens, int size, int
               pooling) {
    pool<4, 8>(hidden, cu_seqlens, out, tokens, size, pooling);
}
