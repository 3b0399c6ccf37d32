//! User names and password hashes, as htpasswd(1) writes them. Pure.
//!
//! Hashes are bcrypt (`$2a$`, `$2b$`, `$2y$`) and SHA-crypt (`$5$`, `$6$`). All others are refused when the file is
//! read: MD5, unsalted SHA-1 and DES crypt can be cracked within hours once the file has leaked.
//!
//! A check takes tens of milliseconds of CPU by design; [`Users::remembers`] makes later requests cheap.
//!
//! **Invariants**: an unknown name costs as much as a wrong password; the libraries compare hashes in constant time;
//! remembered credentials are keyed hashes, one per user, and are dropped with their [`Users`].

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use parking_lot::RwLock;
use sha_crypt::{PasswordVerifier, ShaCrypt};

/// The users of a file.
pub struct Users {
    /// The index of each name's hash in `hashes`.
    names: HashMap<Box<[u8]>, usize>,
    /// In the order of the file.
    hashes: Vec<Hash>,
    /// The last verified credentials of each user, as keyed hashes, in the order of `hashes`.
    verified: RwLock<Box<[Option<HashKey>]>>,
    keys: [RandomState; 2],
}

/// A line of a users file that is invalid.
#[derive(Debug, PartialEq, Eq)]
pub struct BadLine {
    /// The number of the line, from 1.
    pub line: usize,
    /// What is wrong and what to write instead.
    pub what: String,
}

enum Hash {
    Bcrypt(Box<str>),
    Sha(Box<str>),
}

/// 128 bits, keyed so that credentials cannot be chosen to collide.
type HashKey = [u64; 2];

impl Users {
    /// Parses a users file: one `name:hash` per line. Skips empty lines, lines that start with `#`, and whatever
    /// follows a second colon.
    ///
    /// # Errors
    /// The first invalid line.
    pub fn parse(text: &[u8]) -> Result<Self, BadLine> {
        let mut names = HashMap::new();
        let mut hashes = Vec::new();
        // Some editors put a byte order mark (U+FEFF) before UTF-8.
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let bad = |what: String| BadLine {
                line: index + 1,
                what,
            };
            let mut parts = line.split(|byte| *byte == b':');
            let (Some(name), Some(hash)) = (parts.next(), parts.next()) else {
                return Err(bad("no colon; write name:hash, as htpasswd -B does".into()));
            };
            let shown = String::from_utf8_lossy(name);
            let hash = Hash::parse(hash).map_err(|what| bad(format!("user {shown:?}: {what}")))?;
            if names.insert(name.into(), hashes.len()).is_some() {
                return Err(bad(format!("duplicate user {shown:?}")));
            }
            hashes.push(hash);
        }
        Ok(Self {
            names,
            verified: RwLock::new(hashes.iter().map(|_| None).collect()),
            hashes,
            keys: [RandomState::new(), RandomState::new()],
        })
    }

    /// The number of users.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are no users.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Whether these credentials, `name:password`, were verified before. Costs next to nothing.
    pub fn remembers(&self, credentials: &[u8]) -> bool {
        let key = self.key(credentials);
        self.user(credentials)
            .is_some_and(|user| self.verified.read()[user] == Some(key))
    }

    /// Remembers verified credentials, in place of the user's previous ones.
    pub fn remember(&self, credentials: &[u8]) {
        let key = self.key(credentials);
        if let Some(user) = self.user(credentials) {
            self.verified.write()[user] = Some(key);
        }
    }

    /// Verifies a password. Takes tens of milliseconds, whatever the result.
    pub fn verify(&self, name: &[u8], password: &[u8]) -> bool {
        let known = self.names.get(name);
        // Verify an unknown name with another user's hash, always the same one for this name, so that timing does not
        // reveal whether the name exists, even over many attempts.
        let other = || (self.keys[0].hash_one(name) % self.hashes.len().max(1) as u64) as usize;
        let hash = self.hashes.get(known.copied().unwrap_or_else(other));
        let right = hash.is_some_and(|hash| hash.verify(password));
        known.is_some() && right
    }

    /// The index of the user with these credentials.
    fn user(&self, credentials: &[u8]) -> Option<usize> {
        let colon = memchr::memchr(b':', credentials)?;
        self.names.get(&credentials[..colon]).copied()
    }

    fn key(&self, credentials: &[u8]) -> HashKey {
        self.keys.each_ref().map(|key| key.hash_one(credentials))
    }
}

impl Hash {
    fn parse(hash: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(hash).unwrap_or_default();
        match text.split('$').collect::<Vec<_>>().as_slice() {
            ["", "2a" | "2b" | "2y", ..] => {
                let parts: bcrypt::HashParts = text
                    .parse()
                    .map_err(|_| "not a whole bcrypt hash; write it with htpasswd -B")?;
                let cost = parts.get_cost();
                if !(4..=MOST_COST).contains(&cost) {
                    return Err(format!(
                        "a bcrypt cost of {cost}; write one from 4 to {MOST_COST}"
                    ));
                }
                Ok(Self::Bcrypt(text.into()))
            }
            ["", kind @ ("5" | "6"), rest @ ..] => {
                let typed = rest.first().and_then(|first| first.strip_prefix("rounds="));
                let rounds = typed.map_or(Ok(DEFAULT_ROUNDS), str::parse);
                if !rounds.is_ok_and(|rounds| (1000..=MOST_ROUNDS).contains(&rounds)) {
                    let typed = typed.unwrap_or_default();
                    return Err(format!(
                        "SHA-crypt with {typed} rounds; write from 1000 to {MOST_ROUNDS}"
                    ));
                }
                let rest = &rest[usize::from(typed.is_some())..];
                let length = if *kind == "5" { 43 } else { 86 };
                let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"./".contains(&byte);
                match rest {
                    [salt, hash] if !salt.is_empty() && hash.len() == length && hash.bytes().all(fine) => {
                        Ok(Self::Sha(text.into()))
                    }
                    _ => Err("not a whole SHA-crypt hash; write it with htpasswd -B, or openssl passwd -6".into()),
                }
            }
            ["", "apr1" | "1", ..] => Err(
                "MD5 (apr1) is not accepted, since it is cracked quickly; create it again with htpasswd -B"
                    .into(),
            ),
            _ if text.starts_with("{SHA}") => Err(
                "SHA-1 is not accepted, since it is cracked quickly; create it again with htpasswd -B".into(),
            ),
            _ => Err("not a hash of bcrypt or SHA-crypt; write it with htpasswd -B".into()),
        }
    }

    fn verify(&self, password: &[u8]) -> bool {
        match self {
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Self::Sha(hash) => ShaCrypt::default()
                .verify_password(password, &**hash)
                .is_ok(),
        }
    }
}

impl fmt::Display for BadLine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "line {}: {}", self.line, self.what)
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names and hashes do not belong in logs.
        out.debug_struct("Users").field("len", &self.len()).finish()
    }
}

/// Higher costs take seconds per check.
const MOST_COST: u32 = 14;
const MOST_ROUNDS: u32 = 500_000;
/// The default of SHA-crypt, if a hash does not name its rounds.
const DEFAULT_ROUNDS: u32 = 5000;

#[cfg(test)]
mod tests {
    use super::*;

    /// By htpasswd -nbB -C 4, openssl passwd -5, and crypt(3).
    const FILE: &str = "\
# a comment

bcrypt:$2y$04$HloM8qYtFJ6wd.JdejxvNOU5uXdHt7bas4gMCyiQsXMM0duYJ20Qu
sha256:$5$saltstring$C3o4O1TC6aRHF4FI.QSZMXtHbaj2gSXr4sUc/3NcUi.:a comment
sha512:$6$rounds=1400$anothersalt$5E9OuLIWAfPdRXsbPUrAANVOiSc0GoVy251fzAT7yJRsAlcwOUqs6wVztIo4EaydnCTLdCEJC6f1ucV0ObGJf1
umlauts:$5$saltstring$NSEY/G5yPE2VSoJm0XzkVaaqfQbv42P.1FFf6Ph3HgB\r
";

    #[test]
    fn passwords_are_told_from_others() {
        let users = Users::parse(FILE.as_bytes()).unwrap();
        assert_eq!(users.len(), 4);
        let check = |name: &str, password: &str, expected| {
            let right = users.verify(name.as_bytes(), password.as_bytes());
            assert_eq!(right, expected, "{name} {password}");
        };
        for name in ["bcrypt", "sha256", "sha512"] {
            check(name, "secret", true);
            for wrong in ["", "Secret", "secre", "secret ", "secretsecret"] {
                check(name, wrong, false);
            }
        }
        check("umlauts", "p\u{e4}ss w\u{f6}rd", true);
        check("umlauts", "secret", false);
        for stranger in ["", "Bcrypt", "nobody", "#"] {
            check(stranger, "secret", false);
        }
        assert!(!Users::parse(b"").unwrap().verify(b"bcrypt", b"secret"));
        let (_, first) = FILE.split_once("\n\n").unwrap();
        let marked = Users::parse(format!("\u{feff}{first}").as_bytes()).unwrap();
        assert!(marked.verify(b"bcrypt", b"secret"));
        // The variants of bcrypt differ in nothing that matters here.
        for variant in ["2a", "2b"] {
            let users = Users::parse(FILE.replace("2y", variant).as_bytes()).unwrap();
            assert!(users.verify(b"bcrypt", b"secret"));
        }
    }

    #[test]
    fn files_that_are_not_understood() {
        let check = |text: &str, line, what: &str| {
            let what = what.into();
            assert_eq!(
                Users::parse(text.as_bytes()).unwrap_err(),
                BadLine { line, what }
            );
        };
        check("\na", 2, "no colon; write name:hash, as htpasswd -B does");
        check(
            "#\n#\nbob:$apr1$dB1$aNhpk5M6v4JKK1.1/mT15.\n",
            3,
            "user \"bob\": MD5 (apr1) is not accepted, since it is cracked quickly; create it again with htpasswd -B",
        );
        check(
            "bob:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
            1,
            "user \"bob\": SHA-1 is not accepted, since it is cracked quickly; create it again with htpasswd -B",
        );
        let none = "user \"bob\": not a hash of bcrypt or SHA-crypt; write it with htpasswd -B";
        check("bob:secret", 1, none);
        check("bob:", 1, none);
        check(
            "bob:$2x$04$HloM8qYtFJ6wd.JdejxvNOU5uXdHt7bas4gMCyiQsXMM0duYJ20Qu",
            1,
            none,
        );
        check(
            "bob:$2y$04$short",
            1,
            "user \"bob\": not a whole bcrypt hash; write it with htpasswd -B",
        );
        check(
            "bob:$2y$17$HloM8qYtFJ6wd.JdejxvNOU5uXdHt7bas4gMCyiQsXMM0duYJ20Qu",
            1,
            "user \"bob\": a bcrypt cost of 17; write one from 4 to 14",
        );
        let sha = "user \"bob\": not a whole SHA-crypt hash; write it with htpasswd -B, or openssl passwd -6";
        check("bob:$5$salt$short", 1, sha);
        check(
            "bob:$5$$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc8",
            1,
            sha,
        );
        check(
            "bob:$6$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc8",
            1,
            sha,
        );
        check(
            "bob:$5$rounds=999999999$salt$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc8",
            1,
            "user \"bob\": SHA-crypt with 999999999 rounds; write from 1000 to 500000",
        );
        let twice = format!("{FILE}{FILE}");
        check(&twice, 9, "duplicate user \"bcrypt\"");
    }

    #[test]
    fn what_was_right_is_remembered_for_each_user() {
        let users = Users::parse(FILE.as_bytes()).unwrap();
        let all: [&[u8]; 3] = [b"bcrypt:secret", b"sha256:secret", b"sha512:a:b"];
        for credentials in all {
            assert!(!users.remembers(credentials));
            users.remember(credentials);
        }
        assert!(all.iter().all(|credentials| users.remembers(credentials)));
        for other in [
            "bcrypt:secre",
            "bcrypt",
            "bcrypt:",
            "sha512:a",
            "umlauts:secret",
            ":",
        ] {
            assert!(!users.remembers(other.as_bytes()), "{other}");
        }
        // No more than one for each, so that no client can fill the memory.
        users.remember(b"bcrypt:another");
        assert!(users.remembers(b"bcrypt:another") && !users.remembers(all[0]));
        users.remember(b"nobody:secret");
        assert!(!users.remembers(b"nobody:secret"));
        let others = Users::parse(FILE.as_bytes()).unwrap();
        assert!(!others.remembers(all[1]));
    }
}
