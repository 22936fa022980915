//! How much memory the machine has left, for adapters that share it with the processor.

use std::process::Command;

/// Bytes that programs can have without pushing others out; `None` where the system does not say.
pub fn available() -> Option<u64> {
    match std::env::consts::OS {
        "linux" | "android" => linux(&std::fs::read_to_string("/proc/meminfo").ok()?),
        // What is free counts little there, as files fill the rest: half of all is a careful guess.
        "macos" => said("sysctl", &["-n", "hw.memsize"]).map(|bytes| bytes / 2),
        "windows" => {
            let query = "(Get-CimInstance Win32_OperatingSystem).FreePhysicalMemory";
            said("powershell", &["-NoProfile", "-Command", query]).map(|kib| kib * 1024)
        }
        _ => None,
    }
}

fn linux(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The number that a program of the system prints.
fn said(program: &str, arguments: &[&str]) -> Option<u64> {
    let output = Command::new(program).args(arguments).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
