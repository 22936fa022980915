use super::*;

fn picture(value: f32, rows: usize) -> SoftTokens {
    SoftTokens::new(Modality::Image, 9, 2, vec![value; rows * 2]).unwrap()
}

#[test]
fn another_picture_in_the_same_place_is_not_common() {
    let with = |picture: SoftTokens| Prompt::from([1, 2]).then(picture).then([3, 4]);
    let one = with(picture(1.0, 3));
    assert_eq!(one.common(&with(picture(1.0, 3))), 7, "equal rows are the same picture");
    assert_eq!(one.common(&with(picture(2.0, 3))), 2, "the ids are the same, the rows are not");
    assert_eq!(one.common(&Prompt::from([1, 2, 9, 9, 9, 3, 4])), 2, "text of the same ids");
    assert_eq!(one.common(&Prompt::from([1, 2]).then(picture(1.0, 3)).then([3, 5])), 6);
    assert_eq!(one.common(&with(picture(1.0, 2))), 2, "fewer rows");
    let two = with(picture(1.0, 3)).then(picture(1.0, 3)).then([5]);
    assert_eq!((one.common(&two), two.common(&one)), (7, 7));
    let other = with(picture(1.0, 3)).then(picture(2.0, 3)).then([5]);
    assert_eq!(two.common(&other), 7);
}

#[test]
fn rows_that_are_none_are_refused() {
    for (width, values) in [(4, vec![]), (4, vec![1.0; 7]), (0, vec![1.0]), (2, vec![1.0, f32::NAN]), (1, vec![f32::INFINITY])] {
        let error = SoftTokens::new(Modality::Audio, 1, width, values).unwrap_err();
        assert!(matches!(error, Error::Prompt(PromptError::SoftTokens(_))), "{error}");
    }
}
