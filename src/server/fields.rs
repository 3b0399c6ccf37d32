//! What a site changes in the fields of its responses (`response_headers`, `expires`, `cors`, `hsts`).
//!
//! Pure. A site that changes nothing pays for a branch per response.

use crate::config::{self, Cors, ExpiresRule, HeaderRule};
use crate::content::content_type_of;
use crate::exchange::{Body, Response, Trace};
use crate::http::encoding::has_type;
use crate::http::head::{Method, RequestHead, ResponseHead};
use crate::http::headers::Headers;

/// The changes of a site.
#[derive(Debug, Default)]
pub(crate) struct FieldRules {
    /// Whether there are none.
    is_empty: bool,
    /// The value of Strict-Transport-Security.
    hsts: Option<Box<str>>,
    headers: Vec<HeaderRule>,
    expires: Vec<ExpiresRule>,
    cors: Option<CorsRule>,
}

/// The request to which a response belongs.
pub(crate) struct FieldRequest<'r> {
    pub(crate) head: &'r RequestHead,
    /// Whether the client has sent it over TLS.
    pub(crate) is_https: bool,
    /// Whether the response is a file below `docroot`.
    pub(crate) is_file: bool,
}

/// Which pages of other sites may use responses, with the values of fields.
#[derive(Debug)]
struct CorsRule {
    settings: Cors,
    methods: String,
    headers: String,
    expose: String,
    max_age: String,
}

impl FieldRules {
    pub(crate) fn new(site: &config::SiteConfig) -> Self {
        let rules = Self {
            is_empty: false,
            hsts: site.hsts.as_ref().map(hsts),
            headers: site.response_headers.clone(),
            expires: site.expires.clone(),
            cors: site.cors.clone().map(CorsRule::new),
        };
        let is_empty = rules.hsts.is_none()
            && rules.headers.is_empty()
            && rules.expires.is_empty()
            && rules.cors.is_none();
        Self { is_empty, ..rules }
    }

    /// Whether it changes nothing.
    pub(crate) const fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Changes the head of a response.
    pub(crate) fn apply(&self, request: &FieldRequest<'_>, head: &mut ResponseHead) {
        let path = request.head.target.decoded_path();
        if request.is_file && matches!(head.status, 200 | 206 | 304) {
            let mut rules = self.expires.iter();
            if let Some(rule) = rules.find(|rule| is_for(rule, &path, &head.headers)) {
                head.headers
                    .set("Cache-Control", cache_control(rule).as_bytes());
            }
        }
        for rule in self
            .headers
            .iter()
            .filter(|rule| is_below(&path, &rule.paths))
        {
            change(rule, head);
        }
        if let Some(cors) = self
            .cors
            .as_ref()
            .filter(|cors| is_below(&path, &cors.settings.paths))
        {
            cors.apply(request.head, &mut head.headers);
        }
        // RFC 6797 7.2: not without TLS.
        if let Some(hsts) = self.hsts.as_ref().filter(|_| request.is_https) {
            head.headers
                .set("Strict-Transport-Security", hsts.as_bytes());
        }
    }

    /// The response to a browser that asks which requests the page of another site may send. It has no password with it.
    pub(crate) fn preflight(&self, request: &RequestHead) -> Option<Response> {
        let cors = self.cors.as_ref()?;
        let asks = request.method == Method::Options
            && request.headers.contains("Origin")
            && request.headers.contains("Access-Control-Request-Method");
        if !asks || !is_below(&request.target.decoded_path(), &cors.settings.paths) {
            return None;
        }
        let mut head = ResponseHead::new(204);
        let headers = &mut head.headers;
        if cors.allowed(request).is_some() {
            headers.push("Access-Control-Allow-Methods", cors.methods.as_bytes());
            let wanted = request.headers.get("Access-Control-Request-Headers");
            let wanted = wanted.filter(|_| cors.settings.headers.is_empty());
            let allowed = wanted.unwrap_or(cors.headers.as_bytes());
            if !allowed.is_empty() {
                headers.push("Access-Control-Allow-Headers", allowed);
            }
            headers.push("Access-Control-Max-Age", cors.max_age.as_bytes());
        }
        headers.push("Vary", b"Access-Control-Request-Headers");
        Some(Response {
            head,
            body: Body::Empty,
            trace: Trace::default(),
        })
    }
}

impl CorsRule {
    fn new(settings: Cors) -> Self {
        Self {
            methods: settings.methods.join(", "),
            headers: settings.headers.join(", "),
            expose: settings.expose.join(", "),
            max_age: settings.max_age.to_string(),
            settings,
        }
    }

    /// The origin as the response names it, if its pages may use the response.
    fn allowed<'r>(&self, request: &'r RequestHead) -> Option<&'r [u8]> {
        let origin = request.headers.get("Origin")?;
        let is = |known: &String| origin.eq_ignore_ascii_case(known.as_bytes());
        match &*self.settings.origins {
            [] => Some(b"*"),
            origins => origins.iter().any(is).then_some(origin),
        }
    }

    fn apply(&self, request: &RequestHead, headers: &mut Headers) {
        for own in ["Origin", "Credentials"] {
            headers.remove(&format!("Access-Control-Allow-{own}"));
        }
        if !self.settings.origins.is_empty() {
            headers.push("Vary", b"Origin");
        }
        let Some(origin) = self.allowed(request) else {
            return;
        };
        headers.push("Access-Control-Allow-Origin", origin);
        if self.settings.credentials {
            headers.push("Access-Control-Allow-Credentials", b"true");
        }
        if !self.expose.is_empty() {
            headers.set("Access-Control-Expose-Headers", self.expose.as_bytes());
        }
    }
}

fn change(rule: &HeaderRule, head: &mut ResponseHead) {
    // A 304 has no content, so no fields about it (RFC 9110 15.4.5).
    let is_out = |name: &str| {
        let mut of_content = OF_CONTENT.iter();
        head.status == 304 && of_content.any(|known| name.eq_ignore_ascii_case(known))
    };
    let headers = &mut head.headers;
    for name in &rule.remove {
        headers.remove(name);
    }
    for (name, value) in rule.set.iter().filter(|(name, _)| !is_out(name)) {
        headers.set(name, value.as_bytes());
    }
    for (name, values) in rule.add.iter().filter(|(name, _)| !is_out(name)) {
        for value in values {
            headers.push(name, value.as_bytes());
        }
    }
    if rule.secure {
        for (name, value) in SECURE {
            if !headers.contains(name) {
                headers.push(name, value.as_bytes());
            }
        }
    }
}

/// Whether a rule about files is for this response.
fn is_for(rule: &ExpiresRule, path: &[u8], headers: &Headers) -> bool {
    let has_type = || {
        // A 304 does not say of which type the file is.
        let guessed = || content_type_of(path);
        match headers.get("Content-Type") {
            Some(own) => has_type(own, &rule.types),
            None => has_type(guessed().as_bytes(), &rule.types),
        }
    };
    is_below(path, &rule.paths)
        && (!rule.hashed || has_hash(path))
        && (rule.types.is_empty() || has_type())
}

fn cache_control(rule: &ExpiresRule) -> String {
    match (rule.time, rule.immutable) {
        (0, _) => "no-cache".into(),
        (time, false) => format!("max-age={time}"),
        (time, true) => format!("max-age={time}, immutable"),
    }
}

/// Whether a decoded path is one of these or below it.
fn is_below(path: &[u8], paths: &[String]) -> bool {
    paths.iter().any(|own| {
        let own = own.trim_end_matches('/').as_bytes();
        let rest = path.strip_prefix(own);
        own.is_empty() || rest.is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
    })
}

/// Whether the name of a file has a hash of its content in it, as bundlers write it: `app.3f2a9c81.js`,
/// `index-DqT8sHk2.css`.
fn has_hash(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let parts: Vec<&[u8]> = name.split(|byte| b".-_".contains(byte)).collect();
    let between = parts.get(1..parts.len().saturating_sub(1));
    between.unwrap_or_default().iter().any(|part| {
        let has = |is: fn(&u8) -> bool| part.iter().any(is);
        let is_hex = part.len() >= 8 && part.iter().all(u8::is_ascii_hexdigit);
        let is_short = part.len() == 8 && part.iter().all(u8::is_ascii_alphanumeric);
        let has_digit = has(u8::is_ascii_digit);
        let is_mixed = has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase);
        has_digit && (is_hex && has(u8::is_ascii_alphabetic) || is_short && is_mixed)
    })
}

fn hsts(hsts: &config::Hsts) -> Box<str> {
    let mut value = format!("max-age={}", hsts.max_age);
    if hsts.subdomains {
        value.push_str("; includeSubDomains");
    }
    if hsts.preload {
        value.push_str("; preload");
    }
    value.into()
}

/// Fields that protect visitors: the type of a response is as it says; other sites cannot show it in a frame; they see
/// the origin only from which a link leads to them.
const SECURE: [(&str, &str); 3] = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "SAMEORIGIN"),
    ("Referrer-Policy", "strict-origin-when-cross-origin"),
];

/// Fields about the content of a response.
const OF_CONTENT: [&str; 3] = ["Content-Type", "Content-Disposition", "Content-Language"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_in_names() {
        for name in [
            "/assets/app.3f2a9c81.js",
            "/index-DqT8sHk2.css",
            "/application-1f8a7d3c5b2e4f60718293a4b5c6d7e8f90123456789abcdef0123456789abcd.js",
            "/main_3f2a9c81.js.map",
        ] {
            assert!(has_hash(name.as_bytes()), "{name}");
        }
        for name in [
            "/",
            "/app.js",
            "/jquery-3.7.1.min.js",
            "/report-20240101.pdf",
            "/DSC01234.jpg",
            "/3f2a9c81.js",
            "/3f2a9c81/app.js",
            "/a-deadbeef.js",
            "/a-Photo123.jpg/",
        ] {
            assert!(!has_hash(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn whole_components() {
        let paths = ["/a b".to_owned(), "/c".into()];
        let check = |path: &str| is_below(path.as_bytes(), &paths);
        assert!(check("/a b") && check("/c/") && check("/c/d"));
        assert!(!check("/cd") && !check("/") && !check("/C"));
        assert!(is_below(b"/x", &["/".into()]) && is_below(b"*", &["/".into()]));
    }
}
