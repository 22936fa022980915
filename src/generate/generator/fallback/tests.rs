use super::*;

#[test]
fn the_reference_takes_over_where_no_device_was_asked_for() {
    let wrong = || {
        let text = || String::from("text");
        Err(Error::Device(DeviceError::WrongKernel { kernel: text(), device: text(), problem: text() }))
    };
    let reference = || Ok("reference");
    assert_eq!(or_reference(&Device::Auto, wrong(), reference).unwrap(), "reference");
    assert_eq!(or_reference(&Device::Auto, Ok("device"), reference).unwrap(), "device");
    for device in [Device::Gpu, Device::Named("a".into())] {
        assert!(
            matches!(or_reference(&device, wrong(), reference), Err(Error::Device(DeviceError::WrongKernel { .. }))),
            "{device}"
        );
    }
    let lost = Err(Error::Device(DeviceError::Lost("lost".into())));
    assert!(matches!(or_reference(&Device::Auto, lost, reference), Err(Error::Device(DeviceError::Lost(_)))));
}
