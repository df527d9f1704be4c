//! What goes into an encoder and what comes out: packed token sequences in, one `Output` per
//! sequence out. Padding does not exist at this level; an encoder that needs it adds it itself.

/// Several token sequences laid end to end, as packed attention kernels take them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Token ids of all sequences, one after the other. `[tokens]`
    pub input_ids: Vec<i64>,
    /// Segment of each token (0 for a single text; 1 for the second of a pair). `[tokens]`
    pub token_type_ids: Vec<i64>,
    /// Where each sequence starts; the last entry is the number of tokens. `[sequences + 1]`
    pub cu_seqlens: Vec<i32>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            input_ids: Vec::new(),
            token_type_ids: Vec::new(),
            cu_seqlens: vec![0],
        }
    }
}

impl Batch {
    /// Appends one sequence.
    pub fn push(&mut self, encoding: &Encoding) {
        self.input_ids
            .extend(encoding.input_ids.iter().map(|&id| i64::from(id)));
        self.token_type_ids
            .extend(encoding.token_type_ids.iter().map(|&id| i64::from(id)));
        let tokens = i32::try_from(self.input_ids.len()).expect("a batch is far below 2^31 tokens");
        self.cu_seqlens.push(tokens);
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.cu_seqlens.len() - 1
    }

    /// Number of tokens over all sequences.
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// First and one-past-last token of each sequence.
    pub fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        self.cu_seqlens
            .windows(2)
            .map(|w| w[0] as usize..w[1] as usize)
    }

    /// One sequence of this batch as a batch of its own.
    pub fn sequence(&self, index: usize) -> Self {
        let range = self.cu_seqlens[index] as usize..self.cu_seqlens[index + 1] as usize;
        Self {
            input_ids: self.input_ids[range.clone()].to_vec(),
            token_type_ids: self.token_type_ids[range].to_vec(),
            cu_seqlens: vec![0, self.cu_seqlens[index + 1] - self.cu_seqlens[index]],
        }
    }

    /// Length of the longest sequence, in tokens.
    pub fn max_seqlen(&self) -> usize {
        self.ranges().map(|r| r.len()).max().unwrap_or(0)
    }
}

/// One text as the model sees it, with an account of what was cut to make it fit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoding {
    /// Token ids with the special tokens of the model. `[tokens]`
    pub input_ids: Vec<u32>,
    /// Segment of each token. `[tokens]`
    pub token_type_ids: Vec<u8>,
    /// How many tokens of the input were left out to keep within the limit.
    pub tokens_cut: usize,
}

/// What an encoder returns for one sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// The pooled vector, neither cut nor normalised, unless a given graph does so. `[hidden]`
    pub dense: Vec<f32>,
}
