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
