//! How a fake of AWS listens: HTTP/1.1 on a loopback port, on a thread of its own, with TLS or without.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::pki::Pair;

/// Answers every request with `answer`; returns the port. Lives as long as its process.
///
/// # Errors
/// When no port is free or the certificate is none.
pub fn listen<A, F>(certificate: Option<&Pair>, answer: A) -> anyhow::Result<u16>
where
    A: Fn(Request<Bytes>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = anyhow::Result<Response<Bytes>>> + Send + 'static,
{
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("no free port on loopback")?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    let tls = certificate.map(acceptor).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let (socket, _) = listener.accept().await?;
                let (tls, answer) = (tls.clone(), answer.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(socket, answer).await,
                        Some(tls) => serve(tls.accept(socket).await?, answer).await,
                    }
                });
            }
            #[allow(unreachable_code, reason = "tells the type of the block's errors")]
            anyhow::Ok(())
        })
    });
    Ok(port)
}

async fn serve<A, F, S>(stream: S, answer: A) -> anyhow::Result<()>
where
    A: Fn(Request<Bytes>) -> F,
    F: Future<Output = anyhow::Result<Response<Bytes>>>,
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let service = service_fn(async |request: Request<Incoming>| {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        answer(Request::from_parts(head, body)).await.map(|answer| answer.map(Full::new))
    });
    Ok(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?)
}

fn acceptor(pair: &Pair) -> anyhow::Result<TlsAcceptor> {
    crate::install_crypto();
    let chain = CertificateDer::pem_slice_iter(pair.cert.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
