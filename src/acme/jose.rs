//! The key of an account, and requests that are signed with it (JWS, RFC 7515; RFC 8555 6.2).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

/// The key of an account: ECDSA with P-256.
pub(super) struct AccountKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

/// Who signs a request.
pub(super) enum Signer<'a> {
    /// The key itself, which the authority may not know yet.
    Key,
    /// The account with this URL.
    Account(&'a str),
}

impl AccountKey {
    /// A key in PKCS #8; `None` if it is not one of P-256.
    pub(super) fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random).ok()?;
        Some(Self { pair, random })
    }

    /// The public key (RFC 7517), its members in the order that its thumbprint needs.
    fn jwk(&self) -> String {
        // An uncompressed point: 4, x, y.
        let point = self.pair.public_key().as_ref();
        let (x, y) = (encode(&point[1..33]), encode(&point[33..65]));
        format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)
    }

    /// The response to a challenge (RFC 8555 8.1).
    pub(super) fn authorization(&self, token: &str) -> String {
        format!("{token}.{}", encode(&sha256(self.jwk().as_bytes())))
    }

    /// A signed request to a URL.
    pub(super) fn sign(
        &self,
        signer: &Signer<'_>,
        nonce: &str,
        url: &str,
        payload: &str,
    ) -> String {
        let by = match signer {
            Signer::Key => format!(r#""jwk":{}"#, self.jwk()),
            Signer::Account(account) => format!(r#""kid":{}"#, json!(account)),
        };
        let (nonce, url) = (json!(nonce), json!(url));
        let header = format!(r#"{{"alg":"ES256",{by},"nonce":{nonce},"url":{url}}}"#);
        let (header, payload) = (encode(header.as_bytes()), encode(payload.as_bytes()));
        let input = format!("{header}.{payload}");
        let signature = self.pair.sign(&self.random, input.as_bytes());
        let signature = signature.expect("the system provides random numbers");
        signed(&header, &payload, signature.as_ref()).to_string()
    }

    /// The proof that an account which the authority knows already agrees to ours (RFC 8555 7.3.4). `key` is in base64url.
    pub(super) fn bind(&self, kid: &str, key: &str, url: &str) -> Option<Value> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &URL_SAFE_NO_PAD.decode(key).ok()?);
        let header = json!({"alg": "HS256", "kid": kid, "url": url}).to_string();
        let (header, payload) = (encode(header.as_bytes()), encode(self.jwk().as_bytes()));
        let signature = hmac::sign(&key, format!("{header}.{payload}").as_bytes());
        Some(signed(&header, &payload, signature.as_ref()))
    }
}

fn signed(header: &str, payload: &str, signature: &[u8]) -> Value {
    json!({"protected": header, "payload": payload, "signature": encode(signature)})
}

/// A text in base64url without padding.
pub(super) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The SHA-256 of bytes.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let hash = digest(&SHA256, bytes);
    hash.as_ref().try_into().expect("32 bytes")
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    fn key() -> AccountKey {
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        AccountKey::from_pkcs8(made.unwrap().as_ref()).unwrap()
    }

    fn decoded(text: &Value) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(text.as_str().unwrap()).unwrap()
    }

    #[test]
    fn signed_requests() {
        let key = key();
        for signer in [Signer::Key, Signer::Account("https://ca/acct/1")] {
            let text = key.sign(&signer, "nonce", "https://ca/new", r#"{"a":1}"#);
            let request: Value = serde_json::from_str(&text).unwrap();
            let header: Value = serde_json::from_slice(&decoded(&request["protected"])).unwrap();
            assert_eq!(header["alg"], "ES256");
            assert_eq!(header["nonce"], "nonce");
            assert_eq!(header["url"], "https://ca/new");
            match signer {
                Signer::Key => assert_eq!(header["jwk"].to_string(), key.jwk()),
                Signer::Account(url) => assert_eq!(header["kid"], url),
            }
            assert_eq!(decoded(&request["payload"]), br#"{"a":1}"#);
            let input = format!(
                "{}.{}",
                request["protected"].as_str().unwrap(),
                request["payload"].as_str().unwrap()
            );
            let public = key.pair.public_key().as_ref();
            let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public);
            let signature = decoded(&request["signature"]);
            public.verify(input.as_bytes(), &signature).unwrap();
        }
    }

    #[test]
    fn external_accounts() {
        let key = key();
        let bound = key.bind("kid-1", "c2VjcmV0", "https://ca/new").unwrap();
        assert_eq!(decoded(&bound["payload"]), key.jwk().as_bytes());
        let secret = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let input = format!(
            "{}.{}",
            bound["protected"].as_str().unwrap(),
            bound["payload"].as_str().unwrap()
        );
        hmac::verify(&secret, input.as_bytes(), &decoded(&bound["signature"])).unwrap();
        assert!(key.bind("kid-1", "not base64", "https://ca/new").is_none());
    }

    #[test]
    fn authorization_of_a_token() {
        let text = key().authorization("token");
        let (token, thumbprint) = text.split_once('.').unwrap();
        assert_eq!(token, "token");
        assert_eq!(URL_SAFE_NO_PAD.decode(thumbprint).unwrap().len(), 32);
    }
}
