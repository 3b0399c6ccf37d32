//! TLS as a client speaks it, and certificates made by openssl.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    SupportedProtocolVersion,
};

/// A connection with TLS.
pub(crate) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// One configuration for all, so that sessions are resumed as a browser does.
static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| Arc::new(config()));

/// Makes a TLS connection that asks for a name (SNI).
pub(crate) fn connect(socket: TcpStream, name: &str) -> Stream {
    connect_with(Arc::clone(&CONFIG), socket, name)
}

/// The same with other settings.
pub(crate) fn connect_with(config: Arc<ClientConfig>, socket: TcpStream, name: &str) -> Stream {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(config, name).unwrap();
    StreamOwned::new(connection, socket)
}

/// A client that takes any certificate; curl looks at those in tests of their own.
pub(crate) fn config() -> ClientConfig {
    config_of(rustls::DEFAULT_VERSIONS)
}

/// The same for these versions only.
pub(crate) fn config_of(versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    config_as(versions, None)
}

/// The same with a certificate and its key for servers that ask for one.
pub(crate) fn config_as(
    versions: &[&'static SupportedProtocolVersion],
    own: Option<(&Path, &Path)>,
) -> ClientConfig {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any(provider)));
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((certfile, keyfile)) => {
            let chain = CertificateDer::pem_file_iter(certfile).unwrap();
            let chain = chain.map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_file(keyfile).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// Makes a certificate that signs itself, for these names, and its key. Returns both files.
pub(crate) fn certificate(directory: &Path, file: &str, names: &[&str]) -> (PathBuf, PathBuf) {
    let certfile = directory.join(format!("{file}.pem"));
    let keyfile = directory.join(format!("{file}.key"));
    let names: Vec<_> = names.iter().map(|name| format!("DNS:{name}")).collect();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=test"])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-addext", &format!("subjectAltName={}", names.join(","))])
        .arg("-keyout")
        .arg(&keyfile)
        .arg("-out")
        .arg(&certfile)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    (certfile, keyfile)
}

/// Makes an authority, and a certificate of it for a name; returns the files of the authority and of the pair.
pub(crate) fn authority(directory: &Path, name: &str) -> (PathBuf, PathBuf, PathBuf) {
    authority_for(directory, name, 30)
}

/// The same, with a certificate for so many days; -1: it has expired.
pub(crate) fn authority_for(
    directory: &Path,
    name: &str,
    days: i32,
) -> (PathBuf, PathBuf, PathBuf) {
    let file = |kind: &str| directory.join(format!("{name}.{kind}"));
    let openssl = |arguments: &[&str]| {
        let made = Command::new("openssl")
            .args(arguments)
            .current_dir(directory)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    };
    let curve = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    openssl(
        &[
            &[
                "req",
                "-x509",
                "-days",
                "30",
                "-subj",
                &format!("/CN=authority of {name}"),
            ][..],
            &curve,
            &[
                "-addext",
                "basicConstraints=critical,CA:TRUE",
                "-keyout",
                &format!("{name}.ca.key"),
                "-out",
                &format!("{name}.ca"),
            ],
        ]
        .concat(),
    );
    openssl(
        &[
            &["req", "-subj", "/CN=leaf"][..],
            &curve,
            &[
                "-keyout",
                &format!("{name}.key"),
                "-out",
                &format!("{name}.csr"),
            ],
        ]
        .concat(),
    );
    fs::write(
        file("ext"),
        format!("subjectAltName=DNS:{name},IP:127.0.0.1\nbasicConstraints=CA:FALSE\n"),
    )
    .unwrap();
    openssl(&[
        "x509",
        "-req",
        "-days",
        &days.to_string(),
        "-CAcreateserial",
        "-in",
        &format!("{name}.csr"),
        "-CA",
        &format!("{name}.ca"),
        "-CAkey",
        &format!("{name}.ca.key"),
        "-extfile",
        &format!("{name}.ext"),
        "-out",
        &format!("{name}.pem"),
    ]);
    (file("ca"), file("pem"), file("key"))
}

/// Both files as a configuration names them.
pub(crate) fn pair(certfile: &Path, keyfile: &Path) -> String {
    let (certfile, keyfile) = (certfile.display(), keyfile.display());
    format!("certfile: {certfile}, keyfile: {keyfile}")
}

/// The SHA-256 of a certificate as openssl prints it.
pub(crate) fn fingerprint(certfile: &Path) -> String {
    let run = Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(certfile)
        .output()
        .unwrap();
    let text = String::from_utf8(run.stdout).unwrap();
    text.trim().rsplit('=').next().unwrap().to_owned()
}

#[derive(Debug)]
struct Any(Arc<CryptoProvider>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
