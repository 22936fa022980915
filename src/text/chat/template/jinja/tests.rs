use super::*;

/// As Python's `time.strftime(format, time.gmtime(seconds))` writes them.
#[test]
fn dates_are_pythons() {
    let format = "%d %b %Y %A %H:%M:%S %p %y %F";
    let expected = [
        (0, "01 Jan 1970 Thursday 00:00:00 AM 70 1970-01-01"),
        (951_782_399, "28 Feb 2000 Monday 23:59:59 PM 00 2000-02-28"),
        (951_782_400, "29 Feb 2000 Tuesday 00:00:00 AM 00 2000-02-29"),
        (1_798_761_599, "31 Dec 2026 Thursday 23:59:59 PM 26 2026-12-31"),
    ];
    for (seconds, text) in expected {
        assert_eq!(strftime(format, seconds).unwrap(), text);
    }
    assert!(strftime("%Q", 0).is_err());
}
