// The weight of each token of a text as BGE-M3 has it (Chen et al. 2024, section 3.2): the largest
// of all its places in the sequence, at the first of them; 0 at the others, for weights below 0
// and for the tokens that are left out. NaN stays NaN.
// // weights: [tokens], ids: [tokens], cu_seqlens: [sequences + 1], left_out: [count]
// // -> out: [tokens]
//
// A thread takes a token and looks at all others of its sequence; its neighbours look at the same
// ones, so nearly all of that is read from the first cache.

#include "numbers.cuh"

constexpr int THREADS = 128;
constexpr int BLOCKS = 8;

// The sequence of a token: the last one that begins at or before it.
__device__ inline int sequence_of(const int* __restrict__ cu_seqlens, int sequences, int token) {
    int low = 0;
    int high = sequences;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (cu_seqlens[middle] <= token) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

struct Lexical {
    const long long* ids;
    const int* cu_seqlens;
    const int* left_out;
    int tokens;
    int sequences;
    int left_out_count;
};

template <typename Number>
__device__ void lexical(const Number* __restrict__ weights, Lexical text,
                        float* __restrict__ out) {
    const int token = blockIdx.x * THREADS + threadIdx.x;
    if (token >= text.tokens || text.sequences == 0) return;
    const long long id = text.ids[token];
    bool counts = true;
    for (int i = 0; i < text.left_out_count; i++) counts = counts && text.left_out[i] != id;
    const int sequence = sequence_of(text.cu_seqlens, text.sequences, token);
    const Span span = span_of(text.cu_seqlens, sequence, text.tokens);
    for (int other = span.first; other < token && counts; other++) {
        counts = text.ids[other] != id;
    }
    float weight = 0.0f;
    if (counts) {
        for (int other = token; other < span.end; other++) {
            if (text.ids[other] == id) weight = max_or_nan(weight, widen(weights[other]));
        }
    }
    out[token] = weight;
}

KERNEL(THREADS, BLOCKS)
lexical_f16(const Half* weights, const long long* ids, const int* cu_seqlens, const int* left_out,
            float* out, int tokens, int sequences, int left_out_count) {
    lexical(weights, Lexical{ids, cu_seqlens, left_out, tokens, sequences, left_out_count}, out);
}

KERNEL(THREADS, BLOCKS)
lexical_f32(const float* weights, const long long* ids, const int* cu_seqlens, const int*
            left_out, float* out, int tokens, int sequences, int left_out_count) {
    lexical(weights, Lexical{ids, cu_seqlens, left_out, tokens, sequences, left_out_count}, out);
}
