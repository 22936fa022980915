use crate::generate::{Chosen, SampleOpts};

#[test]
fn numbers_that_json_does_not_have_are_read_as_they_were_written() {
    for number in [0.0, -0.0, 0.1, 1.0, f32::MAX, f32::MIN_POSITIVE, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        let chosen = Chosen { token: 1, logprob: Some(number), top: vec![(1, number), (2, 0.5)] };
        let text = serde_json::to_string(&chosen).unwrap();
        let read: Chosen = serde_json::from_str(&text).unwrap();
        let bits =
            |chosen: &Chosen| (chosen.logprob.map(f32::to_bits), chosen.top.iter().map(|t| t.1.to_bits()).collect::<Vec<_>>());
        assert_eq!(bits(&read), bits(&chosen), "{text}");
        let options = SampleOpts::temperature(number, 3).with_top_p(number).with_min_p(number).with_repetition_penalty(number);
        let text = serde_json::to_string(&options).unwrap();
        let read: SampleOpts = serde_json::from_str(&text).unwrap();
        assert_eq!(format!("{read:?}"), format!("{options:?}"), "{text}");
    }
    let none = Chosen { token: 1, logprob: None, top: Vec::new() };
    assert_eq!(serde_json::from_str::<Chosen>(&serde_json::to_string(&none).unwrap()).unwrap(), none);
    let wrong = r#"{"token":1,"logprob":"much","top":[]}"#;
    assert!(serde_json::from_str::<Chosen>(wrong).unwrap_err().to_string().contains("-inf"));
}
