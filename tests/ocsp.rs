//! Certificates that are presented with what their authority says about them (OCSP).

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::secure::authority;
use crate::common::{Proxy, assert_contains, needs, secure};

/// Writes what an authority says about a certificate of its (OCSP). `state`: `V` is valid, `R` is revoked.
fn write_ocsp(directory: &Path, name: &str, state: char) {
    let openssl = |arguments: &[&str]| {
        let run = Command::new("openssl")
            .args(arguments)
            .current_dir(directory)
            .output();
        let run = run.unwrap();
        assert!(run.status.success(), "{run:?}");
        String::from_utf8(run.stdout).unwrap()
    };
    let file = |kind: &str| format!("{name}.{kind}");
    let serial = openssl(&["x509", "-noout", "-serial", "-in", &file("pem")]);
    let serial = serial.trim().rsplit('=').next().unwrap().to_owned();
    let since = if state == 'R' { "250101000000Z" } else { "" };
    let line = format!("{state}\t491231000000Z\t{since}\t{serial}\tunknown\t/CN=leaf\n");
    fs::write(directory.join("index"), line).unwrap();
    let (ca, certificate) = (file("ca"), file("pem"));
    let about = ["-issuer", &ca, "-cert", &certificate];
    let by = ["-CA", &ca, "-rsigner", &ca, "-rkey", &file("ca.key")];
    let to = ["-index", "index", "-ndays", "2", "-respout", "response"];
    openssl(&[&["ocsp"][..], &about, &by, &to].concat());
}

#[test]
fn certificates_with_what_their_authority_says() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (_, certfile, keyfile) = authority(files.path(), "a.test");
    write_ocsp(files.path(), "a.test", 'V');
    let response = files.path().join("response");
    let pair = format!(
        "{}, ocsp: {}",
        secure::pair(&certfile, &keyfile),
        response.display()
    );
    for yaml in [
        format!(
            "ssl: {{at: '127.0.0.2:0'}}\nmap: [{{incoming: a.test, outgoing: '127.0.0.1:0', tls: {{{pair}}}}}]"
        ),
        format!(
            "ssl: {{at: '127.0.0.2:0', {pair}}}\nmap: [{{incoming: a.test, outgoing: '127.0.0.1:0'}}]"
        ),
    ] {
        write_ocsp(files.path(), "a.test", 'V');
        let yaml = format!("cluster_address: 127.0.0.1\ncluster_port: 0\n{yaml}");
        let proxy = Proxy::start(&yaml);
        let address = proxy.addresses()[1].to_string();
        let is_presented = |version: &str| {
            let client = ["s_client", "-connect", &address, "-servername", "a.test"];
            let run = Command::new("openssl")
                .args(client)
                .args(["-status", version])
                .stdin(Stdio::null())
                .output();
            let text = String::from_utf8_lossy(&run.unwrap().stdout).into_owned();
            assert_contains(&text, "OCSP response: ");
            text.contains("OCSP Response Status: successful (0x0)")
        };
        assert!(is_presented("-tls1_3") && is_presented("-tls1_2"));
        write_ocsp(files.path(), "a.test", 'R');
        proxy.reload(&yaml);
        assert!(!is_presented("-tls1_3"));
        proxy.wait_for_log("response: the certificate is revoked; it is not presented to clients");
        fs::remove_file(&response).unwrap();
        proxy.reload(&yaml);
        proxy.wait_for_log("response: no such file or directory; it is not presented to clients");
        proxy.finish();
    }
}
