//! One request over HTTP/1.1, on a connection of its own: to a running `serve`, a nats-server's
//! monitoring port, or a receiver of traces.

use axum::body::Body;
use axum::http::{Request, Response, header};
use futures_util::StreamExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, ToSocketAddrs};

/// Asks for `path`. `host` is what the question says of whom it asks.
///
/// # Errors
/// Why there is no answer.
pub(crate) async fn ask(
    address: impl ToSocketAddrs,
    host: &str,
    path: &str,
) -> Result<Response<Incoming>, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let request = Request::get(path).header(header::HOST, host).body(Body::empty());
    exchange(stream, request.map_err(|error| error.to_string())?).await
}

/// Sends that request.
///
/// # Errors
/// Why there is no answer.
pub(crate) async fn exchange<S>(
    stream: S,
    request: Request<Body>,
) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connected = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.map_err(|error| error.to_string())?;
    // It ends when the answer was read, or with the runtime.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|error| error.to_string())
}

/// A body of at most so many bytes.
///
/// # Errors
/// It is longer, or does not come to its end.
pub(crate) async fn body(body: Incoming, most: usize) -> Result<Vec<u8>, String> {
    let mut body = Body::new(body).into_data_stream();
    let mut text = Vec::new();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|error| error.to_string())?;
        if text.len() + piece.len() > most {
            let limit = match most >> 20 {
                0 => format!("{} KiB", most >> 10),
                mebibytes => format!("{mebibytes} MiB"),
            };
            return Err(format!("its answer is larger than {limit}"));
        }
        text.extend_from_slice(&piece);
    }
    Ok(text)
}
