use super::*;

#[test]
fn gelu_has_its_known_values() {
    // transformers' gelu_pytorch_tanh in float64.
    for (x, y) in [(1.0, 0.841_191_990_608_276_4), (-1.0, -0.158_808_009_391_723_66), (3.0, 2.996_362_607_918_227)] {
        assert!((UnaryFn::GeluTanh.eval(x) - y).abs() < 1e-9, "{x}: {}", UnaryFn::GeluTanh.eval(x));
    }
}

#[test]
fn wgsl_text_fills_every_operand() {
    for f in UnaryFn::ALL {
        assert!(f.wgsl("v1").contains("v1") && !f.wgsl("v1").contains('§'), "{}", f.name());
    }
    for f in BinaryFn::ALL {
        let text = f.wgsl("v1", "v2");
        assert!(text.contains("v1") && text.contains("v2") && !text.contains(['§', '‖']), "{text}");
    }
}
