//! The server: accepts connections, bounds what a client may send, drains at the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::Pages;
use super::track::Tracked;
use super::visitor::Peer;

/// Bytes of a request's head. Our longest address, a tracked link, stays under 4 KiB.
const HEAD_BYTES: usize = 32 * 1024;
/// Header fields of a request; browsers behind two proxies send about 30.
const HEADER_FIELDS: usize = 100;
/// A client that takes longer to send its head, or idles longer between requests, is let go.
const HEAD_TIME: Duration = Duration::from_secs(15);
/// Connections at a time: bounds memory at about 200 MB and stays under common limits of open files.
const CONNECTIONS: usize = 4_000;
/// How long connections may go on after the end was asked for.
const DRAIN_TIME: Duration = Duration::from_secs(10);
/// The wait after a failed accept, which mostly means that we are out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` resolves; then no new connection is taken, and running requests get
/// ten seconds to end.
pub async fn serve(listener: TcpListener, pages: Pages, shutdown: impl Future<Output = ()> + Send) {
    let (stop, stopped) = watch::channel(false);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place.expect("the semaphore is never closed"),
            () = &mut shutdown => break,
        };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
            () = &mut shutdown => break,
        };
        let (pages, stopped) = (pages.clone(), stopped.clone());
        connections.spawn(async move {
            connection(stream, peer, pages, stopped).await;
            drop(place);
        });
    }
    drop(listener);
    // Nobody listens when no connection is open.
    stop.send(true).ok();
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIME, drained).await.is_err() {
        tracing::warn!(connections = connections.len(), "closing connections that did not end in time");
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, pages: Pages, mut stopped: watch::Receiver<bool>) {
    // Answers are small: waiting to fill a packet would only delay them.
    stream.set_nodelay(true).ok();
    let (routes, app) = (TowerToHyperService::new(pages.routes), pages.app);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        let (routes, app) = (routes.clone(), app.clone());
        async move {
            if let Some(tracked) = Tracked::of(&app, request.method(), request.uri()) {
                return Ok(tracked.answer(&app, peer.ip(), request.method(), request.headers()).await);
            }
            request.extensions_mut().insert(Peer(peer));
            routes.call(request).await
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADER_FIELDS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = async { drop(stopped.wait_for(|stop| *stop).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}
