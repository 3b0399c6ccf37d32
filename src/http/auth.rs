//! Basic authentication (RFC 7617): the credentials that a client sends, and the challenge that it gets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::headers::Headers;

/// A name and a password as a client sent them.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `name:password`.
    bytes: Vec<u8>,
    colon: usize,
}

impl Credentials {
    /// Reads the Authorization field. `None`: the field is missing, repeated or invalid: another scheme, not Base64,
    /// no colon, control characters, or longer than [`LONGEST`].
    pub fn of(headers: &Headers) -> Option<Self> {
        let mut fields = headers.get_all("Authorization");
        let (Some(value), None) = (fields.next(), fields.next()) else {
            return None;
        };
        let (scheme, rest) = value.split_at_checked(5)?;
        if !scheme.eq_ignore_ascii_case(b"Basic") || !rest.starts_with(b" ") {
            return None;
        }
        let bytes = STANDARD.decode(rest.trim_ascii()).ok()?;
        let colon = memchr::memchr(b':', &bytes)?;
        let fits = bytes.len() <= LONGEST && !bytes.iter().any(u8::is_ascii_control);
        fits.then_some(Self { bytes, colon })
    }

    /// The user name.
    pub fn name(&self) -> &[u8] {
        &self.bytes[..self.colon]
    }

    /// The password.
    pub fn password(&self) -> &[u8] {
        &self.bytes[self.colon + 1..]
    }

    /// Name, colon and password.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The value of WWW-Authenticate. The realm must have no control characters.
pub fn challenge(realm: &str) -> String {
    let realm = realm.replace('\\', "\\\\").replace('"', "\\\"");
    format!("Basic realm=\"{realm}\", charset=\"UTF-8\"")
}

/// The longest credentials in bytes: htpasswd(1) accepts names and passwords of at most 255 bytes each.
const LONGEST: usize = 511;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials() {
        let check = |values: &[&str], expected: Option<(&str, &str)>| {
            let mut headers = Headers::new();
            for value in values {
                headers.push("authorization", value.as_bytes());
            }
            let found = Credentials::of(&headers);
            let found = found.as_ref().map(|found| (found.name(), found.password()));
            let expected = expected.map(|(name, password)| (name.as_bytes(), password.as_bytes()));
            assert_eq!(found, expected, "{values:?}");
        };
        // The example of RFC 7617 2.
        let aladdin = Some(("Aladdin", "open sesame"));
        check(&["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="], aladdin);
        check(&["bASIC   QWxhZGRpbjpvcGVuIHNlc2FtZQ=="], aladdin);
        check(&["Basic dGVzdDoxMjPCow=="], Some(("test", "123£")));
        check(&["Basic YTpiOmM="], Some(("a", "b:c")));
        check(&["Basic Og=="], Some(("", "")));
        check(&[], None);
        check(&["Basic YTpi", "Basic YTpi"], None);
        check(&["Basic"], None);
        check(&["Basi"], None);
        check(&["BasicYTpi"], None);
        check(&["Bearer YTpi"], None);
        check(&["Basic YTp"], None);
        check(&["Basic YTpi YTpi"], None);
        check(&["Basic YWI="], None);
        // A NUL, where other readers would see the end of the password.
        check(&["Basic YTpiAA=="], None);
        check(&[&format!("Basic YTpi{}", "YWFh".repeat(200))], None);
    }

    #[test]
    fn challenges() {
        assert_eq!(
            challenge("a \"b\" \\c"),
            r#"Basic realm="a \"b\" \\c", charset="UTF-8""#
        );
    }
}
