//! The parameters of a request to a FastCGI server: those of CGI (RFC 3875 4.1), and those that nginx adds.
//!
//! The fields of the request are those that any backend gets (`forwarding`), each as `HTTP_` and its name in upper case with
//! `_` for `-`. A field whose name has other characters is left out, so that no two fields have the same parameter.

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt;

use crate::config::FastCgiConfig;
use crate::content::scripts::Script;
use crate::exchange::Request;
use crate::http::body::Framing;
use crate::http::fastcgi;
use crate::net::stream::Peer;

/// The parameters, in the order in which they are sent.
struct Params<'p> {
    pairs: Vec<Param<'p>>,
}

/// A name and its value.
type Param<'p> = (Cow<'p, [u8]>, Cow<'p, [u8]>);

/// Appends the records of a request up to its body. `head`: the request as a backend that speaks HTTP gets it;
/// `site_name`: the host of a request that names none.
pub(super) fn render(
    request: &Request,
    script: &Script,
    settings: &FastCgiConfig,
    head: &[u8],
    site_name: &str,
    out: &mut Vec<u8>,
) {
    let mut params = Params {
        pairs: Vec::with_capacity(64),
    };
    params.add_script(script, settings);
    params.add_request(request, site_name);
    params.add_fields(head);
    for (name, value) in &settings.params {
        params.push(name.as_bytes(), value.as_bytes());
    }
    let pairs = params.pairs.iter();
    fastcgi::write_request(pairs.map(|(name, value)| (&**name, &**value)), out);
}

impl<'p> Params<'p> {
    fn push(&mut self, name: &'p [u8], value: impl Into<Cow<'p, [u8]>>) {
        self.pairs.push((name.into(), value.into()));
    }

    fn add_script(&mut self, script: &'p Script, settings: &'p FastCgiConfig) {
        let root = settings.root.as_ref().unwrap_or(&script.root);
        let root = root.as_os_str().as_bytes();
        let bare = root.strip_suffix(b"/").unwrap_or(root);
        self.push(b"SCRIPT_FILENAME", [bare, &script.name].concat());
        self.push(b"SCRIPT_NAME", &script.name[..]);
        self.push(
            b"DOCUMENT_URI",
            [&script.name[..], &script.path_info].concat(),
        );
        self.push(b"DOCUMENT_ROOT", root);
        self.push(b"PATH_INFO", &script.path_info[..]);
        if !script.path_info.is_empty() {
            self.push(b"PATH_TRANSLATED", [bare, &script.path_info].concat());
        }
    }

    fn add_request(&mut self, request: &'p Request, site_name: &'p str) {
        let head = &request.head;
        self.push(b"GATEWAY_INTERFACE", &b"CGI/1.1"[..]);
        self.push(b"SERVER_SOFTWARE", SOFTWARE.as_bytes());
        self.push(b"SERVER_PROTOCOL", &b"HTTP/1.1"[..]);
        // Without it, a PHP that was built for CGI may refuse to run anything.
        self.push(b"REDIRECT_STATUS", &b"200"[..]);
        self.push(b"REQUEST_METHOD", head.method.as_str().as_bytes());
        self.push(b"REQUEST_URI", head.target.as_str().as_bytes());
        self.push(
            b"QUERY_STRING",
            head.target.query().unwrap_or_default().as_bytes(),
        );
        let is_https = request.is_https();
        let scheme = if is_https { "https" } else { "http" };
        self.push(b"REQUEST_SCHEME", scheme.as_bytes());
        if is_https {
            self.push(b"HTTPS", &b"on"[..]);
        }
        let host = head.host.as_ref();
        self.push(
            b"SERVER_NAME",
            host.map_or(site_name, |host| host.name()).as_bytes(),
        );
        // Of several proxies in front of the script, the client knows the port of the first one only.
        let usual = if is_https { 443 } else { 80 };
        let port = host.and_then(|host| host.port()).unwrap_or(usual);
        self.push(b"SERVER_PORT", port.to_string().into_bytes());
        if let Some(local) = request.local {
            self.push(
                b"SERVER_ADDR",
                local.ip().to_canonical().to_string().into_bytes(),
            );
        }
        let client = &request.client;
        let address = client.ip().map_or("unix:".into(), |ip| ip.to_string());
        self.push(b"REMOTE_ADDR", address.into_bytes());
        if let (Peer::Tcp(peer), None) = (client.peer, client.forwarded) {
            self.push(b"REMOTE_PORT", peer.port().to_string().into_bytes());
        }
        if let Some(user) = &request.user {
            self.push(b"AUTH_TYPE", &b"Basic"[..]);
            self.push(b"REMOTE_USER", user.as_bytes());
        }
        if head.framing != Framing::Empty {
            self.push(
                b"CONTENT_LENGTH",
                request.body.length().to_string().into_bytes(),
            );
        }
    }

    /// Adds the fields of a head that was rendered as HTTP.
    fn add_fields(&mut self, head: &'p [u8]) {
        let first = self.pairs.len();
        let lines = head.split(|byte| *byte == b'\n').skip(1);
        for line in lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)) {
            let Some(colon) = memchr::memchr(b':', line) else {
                continue;
            };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
            let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
            if !name.iter().all(is_plain) || NOT_PASSED.iter().any(|known| is(known)) {
                continue;
            }
            let prefix: &[u8] = if is("Content-Type") { b"" } else { b"HTTP_" };
            let upper = name.iter().map(|byte| match byte {
                b'-' => b'_',
                byte => byte.to_ascii_uppercase(),
            });
            let param: Vec<u8> = prefix.iter().copied().chain(upper).collect();
            // A field that is sent twice is a list (RFC 9110 5.2), except for cookies (RFC 6265 5.4).
            let known = self.pairs[first..]
                .iter_mut()
                .find(|(known, _)| **known == *param);
            match known {
                Some((_, values)) => {
                    let between: &[u8] = if is("Cookie") { b"; " } else { b", " };
                    values.to_mut().extend_from_slice(between);
                    values.to_mut().extend_from_slice(value);
                }
                None => self.pairs.push((param.into(), value.into())),
            }
        }
    }
}

const SOFTWARE: &str = concat!("swiftiply/", env!("CARGO_PKG_VERSION"));
/// Fields of a head that are not those of the client: FastCGI has its own framing, and cannot be upgraded.
const NOT_PASSED: [&str; 5] = [
    "Connection",
    "Content-Length",
    "Proxy",
    "Transfer-Encoding",
    "Upgrade",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_parameters() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nCookie: a=1\r\nx-a: 2\r\ncookie: b=2\r\nProxy: x\r\n\
            Content-Type: text/plain\r\nContent-Length: 3\r\nConnection: upgrade\r\nUpgrade: x\r\nX_A: 3\r\nX.A: 4\r\n\r\n";
        let mut params = Params { pairs: Vec::new() };
        params.add_fields(head);
        let pairs = params.pairs.iter();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let lines: Vec<_> = pairs
            .map(|(name, value)| format!("{}={}", text(name), text(value)))
            .collect();
        let expected = [
            "HTTP_HOST=a",
            "HTTP_X_A=1, 2",
            "HTTP_COOKIE=a=1; b=2",
            "CONTENT_TYPE=text/plain",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn scripts_are_below_the_root_of_the_server() {
        let script = Script {
            root: "/srv/site/releases/2".into(),
            name: b"/x.php".to_vec(),
            path_info: b"/more".to_vec(),
        };
        let value = |root: Option<&str>, name: &str| {
            let settings = FastCgiConfig {
                root: root.map(Into::into),
                ..FastCgiConfig::default()
            };
            let mut params = Params { pairs: Vec::new() };
            params.add_script(&script, &settings);
            let found = params
                .pairs
                .iter()
                .find(|(known, _)| **known == *name.as_bytes());
            String::from_utf8(found.unwrap().1.to_vec()).unwrap()
        };
        assert_eq!(value(None, "SCRIPT_FILENAME"), "/srv/site/releases/2/x.php");
        assert_eq!(value(None, "DOCUMENT_ROOT"), "/srv/site/releases/2");
        assert_eq!(
            value(Some("/var/www/"), "SCRIPT_FILENAME"),
            "/var/www/x.php"
        );
        assert_eq!(value(Some("/"), "SCRIPT_FILENAME"), "/x.php");
        assert_eq!(value(Some("/"), "PATH_TRANSLATED"), "/more");
        assert_eq!(value(None, "SCRIPT_NAME"), "/x.php");
        assert_eq!(value(None, "PATH_INFO"), "/more");
    }
}
