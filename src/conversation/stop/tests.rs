use super::*;

/// Against a search in the whole text, for every way to cut it.
#[test]
fn a_stop_text_is_found_wherever_it_is_cut() {
    let texts = ["", "ab", "aab", "abab", "xaabaaby", "éééa", "aaaaab", "no stop", "ends in aa"];
    let stops = ["aab".to_string(), "é".into(), "abab".into(), String::new()];
    for text in texts {
        let found = stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
        let first = found.filter_map(|(index, stop)| Some((text.find(stop.as_str())?, index))).min();
        let chars: Vec<char> = text.chars().collect();
        for cuts in 0..1u32 << chars.len().saturating_sub(1) {
            let mut search = StopTexts::new(&stops);
            let mut out = String::new();
            let mut hit = None;
            let mut part = String::new();
            for (at, c) in chars.iter().enumerate() {
                part.push(*c);
                if cuts >> at & 1 == 1 || at + 1 == chars.len() {
                    let (certain, stop) = search.push(&std::mem::take(&mut part));
                    out.push_str(&certain);
                    hit = stop;
                }
                if hit.is_some() {
                    break;
                }
            }
            if hit.is_none() {
                out.push_str(&search.finish());
            }
            // Of two that end at the same part the one that begins first counts, so that a later cut may find
            // another.
            let expected = first.map_or(text.len(), |(at, _)| at);
            assert_eq!((out.as_str(), hit), (&text[..expected], first.map(|(_, index)| index)), "{text:?} {cuts:b}");
        }
    }
}
