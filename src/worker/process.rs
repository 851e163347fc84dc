//! Which process a worker is, so that a restart on the same machine need not wait for the lease of
//! the one that was killed.

use std::path::Path;

/// `host/boot/pid/start`: unique for a process for ever. Parts that this system does not tell are
/// empty.
pub fn name() -> String {
    let pid = std::process::id();
    format!("{}/{}/{pid}/{}", host(), boot(), start_of(pid).unwrap_or_default())
}

/// Whether the process of that name still runs: `None` when it is on another machine, or this
/// system does not tell.
pub fn runs(name: &str) -> Option<bool> {
    let mut parts = name.split('/');
    let (there, booted, pid, started) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if there != host() || booted.is_empty() || started.is_empty() {
        return None;
    }
    if booted != boot() {
        return Some(false);
    }
    Some(start_of(pid.parse().ok()?).as_deref() == Some(started))
}

fn host() -> String {
    read("/proc/sys/kernel/hostname").replace('/', "_")
}

/// Changes with every boot; with the process namespace, so that two containers differ.
fn boot() -> String {
    let namespace = std::fs::read_link("/proc/self/ns/pid").map(|link| link.to_string_lossy().into_owned()).unwrap_or_default();
    let boot = read("/proc/sys/kernel/random/boot_id");
    if boot.is_empty() || namespace.is_empty() { String::new() } else { format!("{boot}-{namespace}") }
}

/// Start time of a process in clock ticks since boot: field 22 of `/proc/PID/stat` (proc(5)).
fn start_of(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_ascii_whitespace();
    // A zombie is dead: it only waits for its parent to notice.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18).map(str::to_owned)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_run_and_a_process_of_another_time_does_not() {
        assert_eq!(runs(&name()), Some(true));
        let mut parts: Vec<String> = name().split('/').map(str::to_owned).collect();
        parts[3] = "1".to_owned();
        assert_eq!(runs(&parts.join("/")), Some(false));
        parts[0] = "elsewhere".to_owned();
        assert_eq!(runs(&parts.join("/")), None);
    }
}
