//! TLS with a relay.

use std::sync::Arc;

use tokio::net::TcpStream;

pub(super) async fn implicit_tls(host: &str, socket: TcpStream) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|error| format!("`{host}`: {error}"))?;
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
        .map_err(|error| format!("TLS with {host} failed: {error}"))
}
