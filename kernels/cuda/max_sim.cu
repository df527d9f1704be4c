// Late interaction (ColBERT's MaxSim, Khattab & Zaharia 2020): for pairs of packed sequences the
// mean, over the tokens of the first, of the largest product with a token of the second.
// // vectors: [tokens, size], cu_seqlens: [sequences + 1], kept: [tokens] or none,
// // pairs: [count, 2] -> out: [count]
//
// A block takes a pair. It goes through the first sequence in tiles of `QUERIES` tokens and for
// each through the second in tiles of `DOCUMENTS`, whose products are summed in single precision
// over steps of `DEPTH` values held in shared memory. Tokens that are not kept are as if they were
// not there; 0 where one side has none; NaN for a pair of which a sequence does not exist.

#include "numbers.cuh"

constexpr int THREADS = 256;
constexpr int BLOCKS = 4;
constexpr int SIDE = 16; // Threads along each side of a tile.
constexpr int QUERIES = 32;
constexpr int DOCUMENTS = 64;
constexpr int DEPTH = 32;
constexpr int STRIDE = DEPTH + 1; // One more, so that rows begin in other banks.
constexpr int OWN_QUERIES = QUERIES / SIDE;
constexpr int OWN_DOCUMENTS = DOCUMENTS / SIDE;

struct Tiles {
    float queries[QUERIES * STRIDE];
    float documents[DOCUMENTS * STRIDE];
    float largest[QUERIES * SIDE];
    float means[QUERIES];
};

// `rows` tokens from `first` on, `DEPTH` values of each; zeros beyond the ends.
template <typename Number>
__device__ void read_tile(const Number* __restrict__ vectors, Span span, int rows, int2 columns,
                          float* tile) {
    for (int at = threadIdx.x; at < rows * DEPTH; at += THREADS) {
        const int token = span.first + at / DEPTH;
        const int column = columns.x + at % DEPTH;
        const bool inside = token < span.end && column < columns.y;
        const size_t from = static_cast<size_t>(token) * columns.y + column;
        tile[at / DEPTH * STRIDE + at % DEPTH] = inside ? widen(vectors[from]) : 0.0f;
    }
}

// Adds the products of the thread's own tokens of both tiles.
__device__ inline void multiply(const Tiles& tiles,
                                float (&products)[OWN_QUERIES][OWN_DOCUMENTS]) {
    const float* queries = tiles.queries + threadIdx.x / SIDE * STRIDE;
    const float* documents = tiles.documents + threadIdx.x % SIDE * STRIDE;
#pragma unroll 8
    for (int k = 0; k < DEPTH; k++) {
#pragma unroll
        for (int i = 0; i < OWN_QUERIES; i++) {
            const float query = queries[i * SIDE * STRIDE + k];
#pragma unroll
            for (int j = 0; j < OWN_DOCUMENTS; j++) {
                products[i][j] += query * documents[j * SIDE * STRIDE + k];
            }
        }
    }
}

__device__ inline bool is_kept(const unsigned char* __restrict__ kept, int token) {
    return kept == nullptr || kept[token] != 0;
}

// The largest products of one tile of the first sequence with the whole second one, into
// `tiles.largest`, a column per thread.
template <typename Number>
__device__ void largest_products(const Number* __restrict__ vectors,
                                 const unsigned char* __restrict__ kept, Span query,
                                 Span document, int size, Tiles& tiles) {
    float largest[OWN_QUERIES];
    for (int i = 0; i < OWN_QUERIES; i++) largest[i] = minus_infinity();
    for (int first = document.first; first < document.end; first += DOCUMENTS) {
        float products[OWN_QUERIES][OWN_DOCUMENTS] = {};
        for (int column = 0; column < size; column += DEPTH) {
            __syncthreads();
            read_tile(vectors, query, QUERIES, int2{column, size}, tiles.queries);
            read_tile(vectors, Span{first, document.end}, DOCUMENTS, int2{column, size},
                      tiles.documents);
            __syncthreads();
            multiply(tiles, products);
        }
        for (int j = 0; j < OWN_DOCUMENTS; j++) {
            const int token = first + static_cast<int>(threadIdx.x) % SIDE + j * SIDE;
            if (token >= document.end || !is_kept(kept, token)) continue;
            for (int i = 0; i < OWN_QUERIES; i++) {
                largest[i] = max_or_nan(largest[i], products[i][j]);
            }
        }
    }
    for (int i = 0; i < OWN_QUERIES; i++) {
        const int row = threadIdx.x / SIDE + i * SIDE;
        tiles.largest[row * SIDE + threadIdx.x % SIDE] = largest[i];
    }
    __syncthreads();
}

struct Packed {
    const int* cu_seqlens;
    const unsigned char* kept;
    int tokens;
    int sequences;
    int size;
};

// How many tokens of a sequence are kept; every thread of a block gets the same answer.
__device__ inline int count_kept(const unsigned char* __restrict__ kept, Span span) {
    if (kept == nullptr) return span.length();
    int count = 0;
    for (int token = span.first; token < span.end; token++) count += is_kept(kept, token);
    return count;
}

template <typename Number>
__device__ void max_sim(const Number* __restrict__ vectors, Packed packed,
                        const int* __restrict__ pairs, float* __restrict__ out) {
    __shared__ Tiles tiles;
    const int query_at = pairs[2 * blockIdx.x];
    const int document_at = pairs[2 * blockIdx.x + 1];
    const bool exist = min(query_at, document_at) >= 0 &&
                       max(query_at, document_at) < packed.sequences;
    if (!exist) {
        if (threadIdx.x == 0) out[blockIdx.x] = not_a_number();
        return;
    }
    const Span query = span_of(packed.cu_seqlens, query_at, packed.tokens);
    const Span document = span_of(packed.cu_seqlens, document_at, packed.tokens);
    const int counted = count_kept(packed.kept, query);
    if (counted == 0 || count_kept(packed.kept, document) == 0) {
        if (threadIdx.x == 0) out[blockIdx.x] = 0.0f;
        return;
    }
    double sum = 0.0; // Of the first thread.
    for (int first = query.first; first < query.end; first += QUERIES) {
        largest_products(vectors, packed.kept, Span{first, query.end}, document, packed.size,
                         tiles);
        if (threadIdx.x < QUERIES) {
            float best = minus_infinity();
            for (int i = 0; i < SIDE; i++) {
                best = max_or_nan(best, tiles.largest[threadIdx.x * SIDE + i]);
            }
            const int token = first + threadIdx.x;
            const bool counts = token < query.end && is_kept(packed.kept, token);
            tiles.means[threadIdx.x] = counts ? best : 0.0f;
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int i = 0; i < QUERIES; i++) sum += tiles.means[i];
        }
    }
    if (threadIdx.x == 0) out[blockIdx.x] = static_cast<float>(sum / counted);
}

KERNEL(THREADS, BLOCKS)
max_sim_f16(const Half* vectors, const int* cu_seqlens, const unsigned char* kept, const int*
            pairs, float* out, int tokens, int sequences, int size) {
    max_sim(vectors, Packed{cu_seqlens, kept, tokens, sequences, size}, pairs, out);
}

KERNEL(THREADS, BLOCKS)
max_sim_f32(const float* vectors, const int* cu_seqlens, const unsigned char* kept, const int*
            pairs, float* out, int tokens, int sequences, int size) {
    max_sim(vectors, Packed{cu_seqlens, kept, tokens, sequences, size}, pairs, out);
}
