//! Lists: servers with their states, certificates of all sources, and what is drained.

use serde_json::Value;

use super::{STATUS, ask, json};
use crate::common::{
    Backend, EchoServer, Proxy, Server, assert_contains, needs, secure, wait_until,
};

#[test]
fn servers_and_their_states() {
    let (server, failing) = (EchoServer::start(), Server::start());
    let (up, fails, gone) = (
        server.address(),
        failing.address(),
        Server::start().address(),
    );
    let site = |name: &str, keys: &str| {
        format!("- {{incoming: {name}, proxy: traditional, timeout: 60, {keys}}}\n")
    };
    let two = site("two", &format!("servers: ['{up}', '{gone}']"));
    let one = site("one", &format!("servers: '{gone}', timeout: 1"));
    let one = one.replace("timeout: 60, ", "");
    let checked = site(
        "checked",
        &format!("servers: '{fails}', check: {{uri: /well, interval: 0.2}}"),
    );
    let unknown = site("unknown", "servers: 'no-such-host.invalid:80'");
    // Answers checks with 500.
    let checks = std::thread::spawn(move || {
        for _ in 0..2 {
            let mut backend = failing.accept();
            backend.request();
            backend.send("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n");
        }
        failing
    });
    let proxy = Proxy::start(&format!("{STATUS}\nmap:\n{two}{one}{checked}{unknown}"));
    let mut client = proxy.visit();
    for _ in 0..2 {
        client.ask("GET /a HTTP/1.1\r\nHost: two\r\n\r\n");
    }
    client.ask("GET /a HTTP/1.1\r\nHost: one\r\n\r\n");
    let servers = |site: &str| json(&proxy, &format!("/status/{site}"))["servers"].clone();
    wait_until("the failed checks", || {
        servers("checked")[0]["state"] == "down"
    });
    let two = servers("two");
    assert_eq!(two[0]["address"], up.to_string(), "{two}");
    assert_eq!(two[0]["state"], "up", "{two}");
    assert_eq!(two[0]["requests"], 2, "{two}");
    assert_eq!(two[0]["failures"], 0, "{two}");
    assert!(two[0].get("checks").is_none(), "{two}");
    assert_eq!(two[1]["state"], "aside", "{two}");
    assert_eq!(two[1]["why"], "connection refused", "{two}");
    assert!(two[1]["failures"].as_u64() > Some(0), "{two}");
    let checked = servers("checked");
    let is_check = |text: &Value| {
        text.as_str()
            .is_some_and(|text| text.starts_with("a check "))
    };
    assert!(is_check(&checked[0]["why"]), "{checked}");
    assert!(is_check(&checked[0]["checks"]["error"]), "{checked}");
    assert!(checked[0]["checks"]["failed"].as_u64() >= Some(2));
    wait_until("the lookup", || {
        let unknown = servers("unknown");
        unknown[0]["state"] == "unknown" && unknown[0]["why"].is_string()
    });
    let status = json(&proxy, "/status");
    let states = |site: usize| {
        status["sites"][site]["state"][0]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(states(0), "serving");
    assert_eq!([1, 2, 3].map(states), ["down"; 3]);
    let (_, metrics) = ask(&proxy, "GET /metrics", "");
    let has = |name: &str, site: &str, server: &str, value: &str| {
        let labels = format!("{{site=\"{site}\",server=\"{server}\"}}");
        assert_contains(&metrics, &format!("\nswiftiply_{name}{labels} {value}"));
    };
    has("server_up", "two", &up.to_string(), "1\n");
    has("server_up", "two", &gone.to_string(), "0\n");
    has("server_requests_total", "two", &up.to_string(), "2\n");
    has("server_failures_total", "two", &up.to_string(), "0\n");
    has("server_up", "checked", &fails.to_string(), "0\n");
    assert_contains(&metrics, "swiftiply_servers{site=\"two\",state=\"up\"} 1\n");
    assert_contains(
        &metrics,
        "swiftiply_servers{site=\"two\",state=\"down\"} 1\n",
    );
    drop((client, checks.join().unwrap(), server));
    proxy.finish_without_leak_check();
}

#[test]
fn certificates_of_all_sources() {
    needs!("openssl");
    let files = tempfile::tempdir().unwrap();
    let (certfile, keyfile) = secure::certificate(files.path(), "test", &["file.test", "b.test"]);
    let pair = secure::pair(&certfile, &keyfile);
    // Nothing listens at the authority's address.
    let gone = Server::start().address();
    let site = |name: &str, tls: &str| {
        format!("- {{incoming: {name}, outgoing: '127.0.0.1:0', tls: {tls}}}\n")
    };
    let proxy = Proxy::start(&format!(
        "{STATUS}\ncluster_address: 127.0.0.1\ncluster_port: 0\nssl: {{at: '127.0.0.2:0', {pair}}}\nstate_directory: state\n\
         acme: {{email: a@b.test, directory: 'https://{gone}/dir'}}\nmap:\n{}{}",
        site("inside.test", "internal"),
        site("auto.test", "auto"),
    ));
    let list = || json(&proxy, "/status")["certificates"].clone();
    wait_until("the failed order", || list()[0]["error"].is_string());
    let list = list();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let (now, day) = (now.as_secs(), 86_400);
    let time = |index: usize, key: &str| list[index][key].as_u64();
    assert_eq!(list[0]["source"], "acme", "{list}");
    assert_eq!(list[0]["names"][0], "auto.test", "{list}");
    assert_eq!(list[0]["temporary"], true, "{list}");
    let error = list[0]["error"].as_str().unwrap();
    assert_contains(error, &gone.to_string());
    assert_eq!(list[1]["source"], "internal", "{list}");
    assert_eq!(list[1]["names"][0], "inside.test", "{list}");
    assert_contains(list[1]["issuer"].as_str().unwrap(), "swiftiply");
    assert!(time(1, "expires") > Some(now + 80 * day), "{list}");
    assert!(time(1, "renewal") > Some(now + 50 * day), "{list}");
    assert!(time(1, "renewal") < time(1, "expires"), "{list}");
    assert_eq!(list[2]["source"], "file", "{list}");
    assert_eq!(list[2]["file"], certfile.display().to_string());
    assert_eq!(list[2]["names"][0], "file.test", "{list}");
    assert!(time(2, "expires") > Some(now), "{list}");
    assert_eq!(time(2, "renewal"), None, "{list}");
    let (_, metrics) = ask(&proxy, "GET /metrics", "");
    let name = "swiftiply_certificate_expiry_timestamp_seconds";
    let expires = time(1, "expires").unwrap();
    let labels = "{source=\"internal\",name=\"inside.test\",file=\"\"}";
    assert_contains(&metrics, &format!("\n{name}{labels} {expires}\n"));
    let labels = "{source=\"acme\",name=\"auto.test\",file=\"\"}";
    assert_contains(&metrics, &format!("\n{name}{labels} "));
    let failing = "swiftiply_certificate_failing";
    assert_contains(&metrics, &format!("\n{failing}{labels} 1\n"));
    // A file that can no longer be read: the certificate stays, with the reason.
    std::fs::write(&certfile, "no certificate").unwrap();
    wait_until("the reason", || {
        let certificates = json(&proxy, "/control/certificates");
        let error = certificates["certificates"][2]["error"].as_str();
        error.is_some_and(|error| error.contains("no certificate in it"))
    });
    proxy.finish_without_leak_check();
}

#[test]
fn a_site_without_backends_is_down() {
    let proxy = super::start(STATUS);
    let state = || json(&proxy, "/sites")["sites"][0]["state"].clone();
    assert_eq!(state(), serde_json::json!(["down"]));
    let backend = Backend::dial(proxy.dial_in());
    wait_until("the backend", || state() == serde_json::json!(["serving"]));
    let backends = json(&proxy, "/backends");
    assert_eq!(backends["backends"][0]["id"], "000000000001", "{backends}");
    assert_eq!(backends["drained"], serde_json::json!([]), "{backends}");
    drop(backend);
    proxy.finish();
}
