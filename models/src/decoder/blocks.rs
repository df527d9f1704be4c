//! Which sequence holds which block of keys and values, and which blocks hold the beginning of a
//! text that another sequence may share. Numbers only: the tensors are the generator's.

use std::collections::{BTreeMap, HashMap};

/// Whose a text is: what was computed for one owner is never found for another, so that nobody can
/// tell by the time of an answer what others have asked.
pub type Owner = [u8; 32];

/// What a block holds: these tokens after what is before them.
type Place = (Before, Box<[u32]>);

/// What is before a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Before {
    /// Nothing: a text of this owner's begins.
    Start(Owner),
    /// Another block, and so all that is before that one.
    Block(u32),
}

/// The blocks of one generator: free, held by so many sequences, or kept because a later text may
/// begin with the same tokens. Kept blocks give way, the longest unused first, when all others are
/// held. Prefixes are found by their tokens and not by a hash of them, so that nobody can be given
/// another's.
#[derive(Debug)]
pub struct BlockPool {
    block_tokens: usize,
    blocks: Vec<Block>,
    free: Vec<u32>,
    prefixes: HashMap<Place, u32>,
    // Kept blocks that nobody holds, by when they were released.
    unused: BTreeMap<u64, u32>,
    clock: u64,
}

#[derive(Debug, Default)]
struct Block {
    holders: u32,
    // Its place in `prefixes`, and in `unused` while nobody holds it.
    place: Option<Place>,
    released: u64,
    // The kept blocks after it.
    next: Vec<u32>,
}

impl BlockPool {
    /// All blocks free; each holds `block_tokens` tokens, at least one.
    pub fn new(blocks: usize, block_tokens: usize) -> Self {
        let count = u32::try_from(blocks).unwrap_or(u32::MAX);
        Self {
            block_tokens: block_tokens.max(1),
            blocks: (0..count).map(|_| Block::default()).collect(),
            free: (0..count).rev().collect(),
            prefixes: HashMap::new(),
            unused: BTreeMap::new(),
            clock: 0,
        }
    }

    /// Tokens per block.
    pub fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// How many blocks there are in all.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// How many blocks `allocate` could give, those that are kept for later texts among them.
    pub fn free(&self) -> usize {
        self.free.len() + self.unused.len()
    }

    /// Blocks that so many tokens need.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_tokens)
    }

    /// Gives so many blocks, held once; all of them or, where there are too few, none.
    pub fn allocate(&mut self, count: usize) -> Option<Vec<u32>> {
        if count > self.free() {
            return None;
        }
        while self.free.len() < count {
            let (_, &oldest) = self.unused.first_key_value()?;
            self.forget(oldest);
        }
        let blocks = self.free.split_off(self.free.len() - count);
        for &block in &blocks {
            self.blocks[block as usize].holders = 1;
        }
        Some(blocks)
    }

    /// Holds blocks once more, for another sequence.
    pub fn retain(&mut self, blocks: &[u32]) {
        for &block in blocks {
            if let Some(block) = self.blocks.get_mut(block as usize) {
                self.unused.remove(&block.released);
                block.holders += 1;
            }
        }
    }

    /// Gives blocks back that a sequence held. They are free, or kept for a text that begins as
    /// that one did, once nobody holds them.
    pub fn release(&mut self, blocks: &[u32]) {
        // From the end, so that of one text the last block is the first to give way.
        for &number in blocks.iter().rev() {
            let Some(block) = self.blocks.get_mut(number as usize) else {
                continue;
            };
            if block.holders == 0 {
                continue;
            }
            block.holders -= 1;
            if block.holders > 0 {
                continue;
            }
            if block.place.is_none() {
                self.free.push(number);
                continue;
            }
            self.clock += 1;
            block.released = self.clock;
            self.unused.insert(self.clock, number);
        }
    }

    /// The longest known beginning of an owner's text, in whole blocks: the blocks, held once more
    /// for the caller, and how many tokens they have. At least one token is left, since a text of
    /// which every token is known would get no logits.
    pub fn find_prefix(&mut self, owner: Owner, ids: &[u32]) -> (Vec<u32>, usize) {
        let mut found: Vec<u32> = Vec::new();
        let mut before = Before::Start(owner);
        let most = ids.len().saturating_sub(1) / self.block_tokens;
        for tokens in ids.chunks_exact(self.block_tokens).take(most) {
            let Some(&block) = self.prefixes.get(&(before, tokens.into())) else {
                break;
            };
            found.push(block);
            before = Before::Block(block);
        }
        self.retain(&found);
        let tokens = found.len() * self.block_tokens;
        (found, tokens)
    }

    /// Remembers what a sequence's blocks hold, as far as they are whole; `ids` are the tokens that
    /// were run. Where another block is known to hold the same, that one stays.
    pub fn remember_prefix(&mut self, owner: Owner, ids: &[u32], blocks: &[u32]) {
        let mut before = Before::Start(owner);
        for (tokens, &number) in ids.chunks_exact(self.block_tokens).zip(blocks) {
            let place: Place = (before, tokens.into());
            if let Some(&known) = self.prefixes.get(&place) {
                before = Before::Block(known);
                continue;
            }
            let held = self.blocks.get_mut(number as usize);
            let Some(block) = held.filter(|block| block.holders > 0 && block.place.is_none())
            else {
                return;
            };
            block.place = Some(place.clone());
            self.prefixes.insert(place, number);
            if let Before::Block(before) = before {
                self.blocks[before as usize].next.push(number);
            }
            before = Before::Block(number);
        }
    }

    /// Takes a block out of the known prefixes, and what comes after it, which nobody could find
    /// any more. Those that nobody holds are free.
    fn forget(&mut self, number: u32) {
        let mut numbers = vec![number];
        while let Some(number) = numbers.pop() {
            let block = &mut self.blocks[number as usize];
            numbers.append(&mut block.next);
            let Some(place) = block.place.take() else {
                continue;
            };
            if block.holders == 0 {
                self.unused.remove(&block.released);
                self.free.push(number);
            }
            self.prefixes.remove(&place);
            if let Before::Block(before) = place.0 {
                let next = &mut self.blocks[before as usize].next;
                next.retain(|&after| after != number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWNER: Owner = [1; 32];
    const TEXT: [u32; 9] = [5, 6, 7, 8, 9, 10, 11, 12, 13];

    #[test]
    fn blocks_are_given_all_or_none_and_come_back() {
        let mut pool = BlockPool::new(4, 2);
        let three = pool.allocate(3).unwrap();
        assert_eq!(pool.free(), 1);
        assert_eq!(pool.allocate(2), None);
        assert_eq!(pool.free(), 1);
        pool.retain(&three[..1]);
        pool.release(&three);
        assert_eq!(pool.free(), 3);
        pool.release(&three[..1]);
        pool.release(&three);
        assert_eq!(
            pool.free(),
            4,
            "releasing what nobody holds changes nothing"
        );
        assert_eq!(pool.allocate(0), Some(Vec::new()));
        assert_eq!(pool.blocks_for(5), 3);
    }

    #[test]
    fn a_known_beginning_is_found_as_far_as_it_goes() {
        let mut pool = BlockPool::new(8, 2);
        let held = pool.allocate(5).unwrap();
        pool.remember_prefix(OWNER, &TEXT, &held);
        assert_eq!(pool.find_prefix(OWNER, &TEXT), (held[..4].to_vec(), 8));
        // The last token has to be run.
        assert_eq!(pool.find_prefix(OWNER, &TEXT[..8]), (held[..3].to_vec(), 6));
        assert_eq!(
            pool.find_prefix(OWNER, &[5, 6, 7, 9, 9]),
            (held[..1].to_vec(), 2)
        );
        // The same tokens elsewhere are another text.
        assert_eq!(pool.find_prefix(OWNER, &TEXT[2..]), (Vec::new(), 0));
        pool.release(&held[..4]);
        pool.release(&held[..3]);
        pool.release(&held[..1]);
        pool.release(&held);
        assert_eq!(pool.free(), 8);
        assert_eq!(
            pool.find_prefix(OWNER, &TEXT).1,
            8,
            "kept though nobody held it"
        );
    }

    #[test]
    fn what_one_owner_has_computed_another_does_not_find() {
        let mut pool = BlockPool::new(8, 2);
        let (mine, theirs) = (pool.allocate(4).unwrap(), pool.allocate(4).unwrap());
        pool.remember_prefix(OWNER, &TEXT, &mine);
        assert_eq!(pool.find_prefix([2; 32], &TEXT), (Vec::new(), 0));
        pool.remember_prefix([2; 32], &TEXT, &theirs);
        assert_eq!(pool.find_prefix([2; 32], &TEXT).0, theirs);
        assert_eq!(pool.find_prefix(OWNER, &TEXT).0, mine);
    }

    #[test]
    fn kept_blocks_give_way_the_last_of_a_text_first() {
        let mut pool = BlockPool::new(5, 2);
        let held = pool.allocate(4).unwrap();
        pool.remember_prefix(OWNER, &TEXT, &held);
        pool.release(&held);
        let other = pool.allocate(3).unwrap();
        assert!(!other.contains(&held[0]) && !other.contains(&held[1]));
        assert_eq!(pool.find_prefix(OWNER, &TEXT), (held[..2].to_vec(), 4));
        assert_eq!(pool.free(), 0);
        assert_eq!(pool.allocate(1), None, "held blocks do not give way");
    }

    #[test]
    fn equal_texts_run_at_once_share_what_comes_later() {
        let mut pool = BlockPool::new(8, 2);
        let (a, b) = (pool.allocate(2).unwrap(), pool.allocate(2).unwrap());
        pool.remember_prefix(OWNER, &TEXT[..4], &a);
        pool.remember_prefix(OWNER, &TEXT[..4], &b);
        pool.release(&b);
        assert_eq!(pool.find_prefix(OWNER, &TEXT).0, a);
        assert_eq!(pool.free(), 6, "the copies are free");
    }

    proptest! {
        /// Sequences that come, share, grow known and go: no block is lost or given twice, and
        /// what is found holds the tokens that it was found by.
        #[test]
        fn blocks_hold_what_they_are_found_for(
            texts in proptest::collection::vec(proptest::collection::vec(0u32..3, 1..14), 1..40),
            keep in 1usize..4,
        ) {
            let mut pool = BlockPool::new(12, 2);
            let mut held: Vec<Vec<u32>> = Vec::new();
            // What was written into each block, with all before it, and for whom.
            let mut written: Vec<(Owner, Vec<u32>)> = vec![(OWNER, Vec::new()); 12];
            for (at, ids) in texts.iter().enumerate() {
                let owner = [(at % 2) as u8; 32];
                let (mut blocks, tokens) = pool.find_prefix(owner, ids);
                prop_assert!(tokens < ids.len());
                for (at, &block) in blocks.iter().enumerate() {
                    let expected = (owner, ids[..(at + 1) * 2].to_vec());
                    prop_assert_eq!(&written[block as usize], &expected);
                }
                let more = pool.blocks_for(ids.len()) - blocks.len();
                match pool.allocate(more) {
                    None => {
                        pool.release(&blocks);
                        held.drain(..).for_each(|blocks| pool.release(&blocks));
                        prop_assert_eq!(pool.free(), 12);
                        continue;
                    }
                    Some(new) => {
                        for block in &new {
                            prop_assert!(!held.iter().any(|held| held.contains(block)));
                        }
                        blocks.extend(new);
                    }
                }
                for (at, &block) in blocks.iter().enumerate().skip(tokens / 2) {
                    let until = ids.len().min((at + 1) * 2);
                    written[block as usize] = (owner, ids[..until].to_vec());
                }
                pool.remember_prefix(owner, ids, &blocks);
                held.push(blocks);
                if held.len() > keep {
                    let first = held.remove(0);
                    pool.release(&first);
                }
            }
            held.drain(..).for_each(|blocks| pool.release(&blocks));
            prop_assert_eq!(pool.free(), 12);
        }
    }
}
