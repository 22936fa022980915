use super::*;

#[test]
fn overrides_become_members_of_a_uniform() {
    let text = "override T: u32;\noverride EPS: f32;\noverride IN: u32 = T;\nlet a = min(T, IN) + x.T + TT; // T";
    let mut lines: Vec<String> = text.lines().map(Into::into).collect();
    let (sizes, declared) = into_uniform(&mut lines);
    assert_eq!(lines[3], "let a = min(sizes.T, sizes.T) + x.T + TT; // sizes.T");
    assert_eq!(declared[0], "struct Sizes { T: u32, EPS: f32, }");
    let overrides = vec![("EPS", 0.5), ("T", 7.0)];
    let kernel = Kernel { shader: "none", options: vec![], overrides, hole: String::new() };
    assert_eq!(size_words(&kernel, &sizes).unwrap(), [7, 0.5f32.to_bits()]);
    let error = size_words(&Kernel { overrides: vec![("EPS", 0.5)], ..kernel.clone() }, &sizes).unwrap_err();
    assert!(error.to_string().contains("size T is not given"), "{error}");
    assert_eq!(Sizes::Uniform.key(&kernel), "none");
    assert_eq!(Sizes::Constants.key(&kernel), "none EPS=0.5 T=7");
}
