//! The account with an authority (RFC 8555 7.3): its file, and its registration.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::client::{AcmeClient, AcmeError};
use super::jose::{AccountKey, Signer};
use super::keys;
use super::order::Ordering;

/// The file of an account.
#[derive(Deserialize, Serialize)]
struct AccountFile {
    /// In PEM.
    key: String,
    /// Empty until the authority knows it.
    #[serde(default)]
    url: String,
    #[serde(default)]
    email: Option<String>,
}

impl Ordering<'_> {
    /// Connects to the authority as an account, which is created if there is none yet.
    ///
    /// # Errors
    /// The authority refuses, or is not reached, or the file of the account cannot be used.
    pub(super) fn connect(&self) -> Result<AcmeClient, AcmeError> {
        let path = self.store.file("account.json");
        let mut account = match self.store.read(&path).map_err(AcmeError::Local)? {
            Some(text) => serde_json::from_str(&text)
                .map_err(|error| AcmeError::Local(format!("{}: {error}", path.display())))?,
            None => AccountFile {
                key: keys::new_key().map_err(AcmeError::Local)?,
                url: String::new(),
                email: self.acme.email.clone(),
            },
        };
        let pkcs8 = keys::pkcs8(&account.key);
        let key = pkcs8.ok().and_then(|der| AccountKey::from_pkcs8(&der));
        let wrong = || AcmeError::Local(format!("{}: not a key of P-256", path.display()));
        let mut client = AcmeClient::new(self.acme, key.ok_or_else(wrong)?)?;
        if account.url.is_empty() {
            // Before it is used, so that a crash does not lose an account.
            self.keep(&account)?;
            account.url = self.register(&mut client)?;
            account.email.clone_from(&self.acme.email);
            self.keep(&account)?;
        }
        client.account.clone_from(&account.url);
        if account.email != self.acme.email {
            match client.post(
                &account.url,
                &json!({"contact": self.contact()}).to_string(),
            ) {
                Err(error) if error.is_unknown_account() => {
                    account.url = self.register(&mut client)?;
                    client.account.clone_from(&account.url);
                }
                result => drop(result?),
            }
            account.email.clone_from(&self.acme.email);
            self.keep(&account)?;
        }
        Ok(client)
    }

    fn keep(&self, account: &AccountFile) -> Result<(), AcmeError> {
        let text = json!(account).to_string();
        let written = self.store.write(&self.store.file("account.json"), &text);
        written.map_err(AcmeError::Local)
    }

    fn contact(&self) -> Vec<String> {
        let email = self.acme.email.iter();
        email.map(|email| format!("mailto:{email}")).collect()
    }

    /// Registers the key of the client; returns the URL of the account, a new one or the one that has the key.
    fn register(&self, client: &mut AcmeClient) -> Result<String, AcmeError> {
        let mut payload = json!({"termsOfServiceAgreed": true, "contact": self.contact()});
        let url = client.directory.new_account.clone();
        match &self.acme.eab {
            Some(eab) => {
                let bound = client.key.bind(&eab.kid, &eab.key, &url);
                let wrong = || AcmeError::Local("acme.eab.key: not base64url".to_owned());
                payload["externalAccountBinding"] = bound.ok_or_else(wrong)?;
            }
            None if client.directory.meta.external_account_required => {
                let why = "the authority wants an account that it knows already; write acme.eab";
                return Err(AcmeError::Local(format!("{url}: {why}")));
            }
            None => {}
        }
        let reply = client.send(&Signer::Key, &url, &payload.to_string())?;
        let missing = || AcmeError::Unreached(url, "no Location of the account".to_owned());
        reply.location.ok_or_else(missing)
    }

    /// The authority has lost the account, as one for tests does: registers its key again.
    pub(super) fn register_again(&self, client: &mut AcmeClient) -> Result<(), AcmeError> {
        let path = self.store.file("account.json");
        let text = self.store.read(&path).map_err(AcmeError::Local)?;
        let account = text.and_then(|text| serde_json::from_str::<AccountFile>(&text).ok());
        let missing = || AcmeError::Local(format!("{}: gone", path.display()));
        let mut account = account.ok_or_else(missing)?;
        account.url = self.register(client)?;
        self.keep(&account)?;
        client.account = account.url;
        Ok(())
    }
}
