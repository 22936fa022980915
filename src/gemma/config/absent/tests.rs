use super::*;

#[test]
fn every_row_has_one_meaning_and_a_reason() {
    for table in [CONFIG_JSON, GGUF] {
        for (at, row) in table.iter().enumerate() {
            assert!(!row.of.is_empty() && row.why.len() > 10, "{}", row.key);
            for other in &table[..at] {
                let both = row.of.iter().find(|family| other.of.contains(family));
                assert!(other.key != row.key || both.is_none(), "{} has two rows for {both:?}", row.key);
            }
        }
    }
}
