//! Texts to embed, made of common English words in a random order that a seed fixes.
//! They read like nothing, but their words, lengths and subword counts are those of real ones.

use crate::{measure::Outcome, subject::Subject};

/// Short and long, one token and several.
const WORDS: &str = "the of and to in a is that for it as was with be by on not he his but at are \
    this have from or had an they which one you were her all she there would their we him been \
    has when who will more no if out so said what up its about into than them can only other new \
    some could time these two may then do first any my now such like our over man me even most \
    made after also did many before must through back years where much your way well down should \
    because each just those people how too little state good very make world still own see men \
    work long get here between both life being under never day same another know while last might \
    us great old year off come since against go came right used take three retrieval embedding \
    semantic document query passage ranking relevance corpus index vector database benchmark \
    throughput latency concurrency tokenization transformer attention quantization normalization \
    photosynthesis mitochondria antidepressant electrocardiogram cryptocurrency biodiversity \
    jurisprudence hyperparameter telecommunications misunderstanding unbelievable straightforward \
    microservice refrigerator accountability overwhelmingly counterintuitive interdisciplinary";

/// Words that every BERT vocabulary has as one token, to end a text on an exact length.
const FILLER: &str = "the";

/// Frequent characters, all in the vocabulary of English BERT models, which has few.
const CHARACTERS: &str = "一三上下不世中主久之也事二五人今仁代以光入八公六共内出分前力加十南原口史司合吉同名四国土城士大\
    天太夫女子学安宗家宿小山川州工平年弘德心成文新方日明星春木本李村東松林梅正武民水氏永江治法海清生田男白的皇目相真\
    石神竹義西見言谷貴車辛道郎金長門陳陽青風馬高龍";

/// A source of texts; the same seed gives the same ones.
pub struct Texts {
    words: Vec<&'static str>,
    state: u64,
}

impl Texts {
    /// Starts at a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            words: WORDS.split_whitespace().collect(),
            state: seed,
        }
    }

    /// So many words.
    pub fn words(&mut self, count: usize) -> String {
        let words: Vec<&str> = (0..count).map(|_| self.word()).collect();
        words.join(" ")
    }

    /// So many Chinese characters, which WordPiece takes one by one.
    pub fn chinese(&mut self, count: usize) -> String {
        let characters: Vec<char> = CHARACTERS.chars().collect();
        (0..count)
            .map(|_| characters[self.below(characters.len())])
            .collect()
    }

    /// Texts of 8 to 128 words, every length as likely as another.
    pub fn mix(&mut self, count: usize) -> Vec<String> {
        (0..count)
            .map(|_| {
                let words = 8 + self.below(121);
                self.words(words)
            })
            .collect()
    }

    /// So many words of random letters, few of which any tokenizer has seen before.
    pub fn invented(&mut self, count: usize) -> String {
        let mut letter = |_| char::from(b'a' + self.below(26) as u8);
        let words: Vec<String> = (0..count)
            .map(|word| (0..3 + word % 7).map(&mut letter).collect())
            .collect();
        words.join(" ")
    }

    /// A number from 1 to `most`, each order of magnitude as likely as another.
    pub fn spread(&mut self, most: usize) -> usize {
        const STEPS: usize = 1 << 20;
        let share = self.below(STEPS) as f64 / STEPS as f64;
        ((most + 1) as f64).powf(share) as usize
    }

    /// A text that is exactly so many tokens long, special tokens included.
    pub fn exactly(&mut self, tokens: usize, subject: &Subject) -> Outcome<String> {
        let special = subject.model.tokenizer().special_tokens();
        let mut left = tokens
            .checked_sub(special)
            .ok_or("too short for the special tokens")?;
        let mut words = Vec::new();
        while left > 0 {
            let word = if left < 8 { FILLER } else { self.word() };
            left = left.saturating_sub(subject.tokens(word)? - special);
            words.push(word);
        }
        let text = words.join(" ");
        let found = subject.tokens(&text)?;
        if found == tokens {
            Ok(text)
        } else {
            Err(format!("a text made for {tokens} tokens has {found}").into())
        }
    }

    fn word(&mut self) -> &'static str {
        let at = self.below(self.words.len());
        self.words[at]
    }

    /// SplitMix64 (Steele et al. 2014), cut to a range.
    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}
