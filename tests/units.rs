//! The files for init systems and packages below `conf/`.

use std::path::Path;
use std::process::Command;

use crate::common::needs;

const CONF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conf");

/// How much a unit lets its processes do, from 0 to 10.
fn exposure(unit: &str) -> f64 {
    let run = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(Path::new(CONF).join(unit))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&run.stdout);
    let last = text
        .lines()
        .rfind(|line| line.contains("Overall exposure level"));
    let number = last.and_then(|line| line.split(": ").nth(1)?.split(' ').next());
    let number = number.unwrap_or_else(|| panic!("{run:?}"));
    number.parse().unwrap()
}

#[test]
fn exposed_little() {
    needs!("systemd-analyze");
    for unit in ["swiftiply.service", "swiftiply-access@.service"] {
        let found = exposure(unit);
        assert!(found < 2.0, "{unit}: {found}");
    }
}

#[test]
fn scripts_have_no_syntax_errors() {
    for script in [
        "swiftiply.openrc",
        "debian/postinst",
        "debian/prerm",
        "debian/postrm",
    ] {
        let path = Path::new(CONF).join(script);
        let run = Command::new("sh").arg("-n").arg(path).output().unwrap();
        assert!(run.status.success(), "{script}: {run:?}");
    }
}
