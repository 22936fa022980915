//! Finds accidents in bytes, not attacks.

/// Fowler, Noll and Vo's hash, variant 1a, of 64 bits (draft-eastlake-fnv).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fnv(u64);

impl Fnv {
    /// That of no bytes.
    pub(crate) const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// That of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> u64 {
        let mut hash = Self::new();
        hash.add(bytes);
        hash.value()
    }

    /// Goes on with more bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    }

    /// The hash of all bytes so far.
    pub(crate) const fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        // Test vectors of the authors' page (isthe.com/chongo/tech/comp/fnv).
        let known = [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)];
        known.into_iter().for_each(|(text, hash)| assert_eq!(Fnv::of(text.as_bytes()), hash, "{text}"));
        let mut parts = Fnv::new();
        ["foo", "", "bar"].into_iter().for_each(|part| parts.add(part.as_bytes()));
        assert_eq!(parts.value(), Fnv::of(b"foobar"));
    }
}
