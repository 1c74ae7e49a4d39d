//! The words of ChaCha8 at any position, sixteen blocks at a time.

/// Words that are made together: sixteen blocks of sixteen.
pub const BATCH: usize = LANES * 16;

const LANES: usize = 16;

/// One of the 2⁶⁴ streams under a key: ChaCha with 8 rounds, a 64-bit counter of blocks and a 64-bit number of the stream, as in
/// `rand_chacha`, whose words these are. That crate makes four blocks at a time; here the compiler keeps each word of sixteen
/// blocks in one register of 512 bits.
///
/// Source: Bernstein 2008, *ChaCha, a variant of Salsa20*.
#[derive(Clone, Copy, Debug)]
pub struct ChaCha8 {
    key: [u32; 8],
    stream: u64,
}

impl ChaCha8 {
    /// The stream of a number under a key.
    pub fn new(key: [u8; 32], stream: u64) -> Self {
        let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|byte| key[4 * i + byte]));
        ChaCha8 { key: std::array::from_fn(word), stream }
    }

    /// Writes the words from a position on that is a multiple of [`BATCH`]. Fast in code for the widest vectors, into which it is inlined.
    #[inline(always)]
    pub fn fill(&self, position: u64, words: &mut [u32; BATCH]) {
        let first = position / 16;
        let [a, b, c, d, e, f, g, h] = self.key;
        let [counter, carry] = halves(first);
        let [low, high] = halves(self.stream);
        // By word and block. Sixteen blocks from a multiple of sixteen on share the counter's upper half.
        let mut columns = [[0; LANES]; 16];
        for lane in 0..LANES {
            let counter = counter + lane as u32;
            let [i, j, k, l] = CONSTANTS;
            let start = [i, j, k, l, a, b, c, d, e, f, g, h, counter, carry, low, high];
            let mut state = start;
            double_round(&mut state);
            double_round(&mut state);
            double_round(&mut state);
            double_round(&mut state);
            for word in 0..16 {
                columns[word][lane] = state[word].wrapping_add(start[word]);
            }
        }
        // From (word, block) to (block, word): four times the index's upper bit becomes its lowest. Words stored sixteen apart would be
        // scattered one by one; of a shuffle the compiler makes two instructions for thirty-two words.
        let mut shuffled = [0; BATCH];
        shuffle(columns.as_flattened(), &mut shuffled);
        shuffle(&shuffled, words);
        shuffle(words, &mut shuffled);
        shuffle(&shuffled, words);
    }
}

/// Takes words from the lower and the upper half in turn: the upper bit of an index becomes its lowest.
#[inline(always)]
fn shuffle(words: &[u32], shuffled: &mut [u32; BATCH]) {
    let (lower, upper) = words.split_at(BATCH / 2);
    for ((pair, &low), &high) in shuffled.chunks_exact_mut(2).zip(lower).zip(upper) {
        pair[0] = low;
        pair[1] = high;
    }
}

/// "expand 32-byte k", as the cipher's description has it.
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646E, 0x7962_2D32, 0x6B20_6574];

/// The lower and the upper half.
fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

#[inline(always)]
fn double_round(s: &mut [u32; 16]) {
    quarter_round(s, 0, 4, 8, 12);
    quarter_round(s, 1, 5, 9, 13);
    quarter_round(s, 2, 6, 10, 14);
    quarter_round(s, 3, 7, 11, 15);
    quarter_round(s, 0, 5, 10, 15);
    quarter_round(s, 1, 6, 11, 12);
    quarter_round(s, 2, 7, 8, 13);
    quarter_round(s, 3, 4, 9, 14);
}

#[inline(always)]
fn quarter_round(s: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    s[a] = s[a].wrapping_add(s[b]);
    s[d] = (s[d] ^ s[a]).rotate_left(16);
    s[c] = s[c].wrapping_add(s[d]);
    s[b] = (s[b] ^ s[c]).rotate_left(12);
    s[a] = s[a].wrapping_add(s[b]);
    s[d] = (s[d] ^ s[a]).rotate_left(8);
    s[c] = s[c].wrapping_add(s[d]);
    s[b] = (s[b] ^ s[c]).rotate_left(7);
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    use super::*;

    #[test]
    fn the_words_are_those_of_the_reference_everywhere() {
        for (seed, stream) in [(0, 0), (1, 7), (u64::MAX, u64::MAX), (42, 1 << 40)] {
            let mut reference = ChaCha8Rng::seed_from_u64(seed);
            reference.set_stream(stream);
            let own = ChaCha8::new(reference.get_seed(), stream);
            for batch in [0, 1, 2, 1000, (1 << 28) - 1, 1 << 28, (1 << 40) + 3] {
                let position = batch * BATCH as u64;
                reference.set_word_pos(position.into());
                let mut words = [0; BATCH];
                own.fill(position, &mut words);
                let expected: Vec<u32> = (0..BATCH).map(|_| reference.next_u32()).collect();
                assert_eq!(words[..], expected, "seed {seed}, stream {stream}, batch {batch}");
            }
        }
    }
}
