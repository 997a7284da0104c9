//! Structured values out of plain bytes, so that a fuzzer's bytes and a property test's bytes build the same things.

/// Takes decisions from bytes, one after the other; where they end, every decision is the first one.
pub struct Choices<'b>(&'b [u8]);

impl<'b> Choices<'b> {
    pub fn new(bytes: &'b [u8]) -> Choices<'b> {
        Choices(bytes)
    }

    /// Whether no byte is left.
    pub fn are_over(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// A number below `limit`, which is 256 at most.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    /// True once in `times`.
    pub fn seldom(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number as models have them, or one that is special, or any bits.
    pub fn f64(&mut self) -> f64 {
        const SPECIAL: [f64; 8] = [0.0, -0.0, 1.0, 1e300, -1e300, f64::MIN_POSITIVE / 2.0, f64::INFINITY, f64::NAN];
        match self.below(4) {
            0 | 1 => f64::from(i16::from_le_bytes(self.array())) / 256.0,
            2 => SPECIAL[self.below(SPECIAL.len())],
            _ => f64::from_bits(self.u64()),
        }
    }

    pub fn f32(&mut self) -> f32 {
        match self.below(8) {
            0 => f32::from_bits(self.u32()),
            _ => self.f64() as f32,
        }
    }

    /// At most `most` bytes, as they come.
    pub fn bytes(&mut self, most: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A text of at most `most` bytes before what is not UTF-8 in it is replaced.
    pub fn text(&mut self, most: usize) -> String {
        let length = self.below(most + 1);
        String::from_utf8_lossy(self.bytes(length)).into_owned()
    }
}
