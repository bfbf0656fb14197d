//! As much of an HTTP/1.1 client as a load generator needs: one request a connection, an answer read as it streams in,
//! nothing of it trusted. Encryption is added by [`super::tls`].

use super::tls::Tls;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest head (status line and headers) of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Longest answer. A model that writes a token of 10 bytes in 200 bytes of JSON would need 300 000 tokens to get there.
const BODY_BYTES_MAX: usize = 64 << 20;
/// To connect, and to agree on keys.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it is spoken to encrypted.
    pub tls: bool,
    /// `host:port`, as for `connect`.
    pub address: String,
    /// What comes before every path, such as `/v1`.
    pub base: String,
}

impl Endpoint {
    /// `http://127.0.0.1:8000/v1`, or `https://`. The error is prose with its remedy.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (tls, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => {
                return Err(format!("{url:?} is no address of a server; write it like http://127.0.0.1:8000/v1"));
            }
        };
        let (authority, base) = rest.split_once('/').map_or((rest, ""), |(a, b)| (a, b));
        let valid = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_graphic() && c != '@');
        if !valid(authority) || !(base.is_empty() || valid(base)) {
            return Err(format!("{url:?} is no address of a server; write it like http://127.0.0.1:8000/v1"));
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let port = if tls { 443 } else { 80 };
        let address = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
        let base = base.trim_end_matches('/');
        Ok(Endpoint { tls, address, base: if base.is_empty() { String::new() } else { format!("/{base}") } })
    }

    /// The name in its certificate.
    #[must_use]
    pub fn host(&self) -> &str {
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

/// Why there was no whole answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// Nobody there.
    #[error("cannot connect to {0}: {1}")]
    Connect(String, String),
    /// The connection broke, or the answer is no HTTP.
    #[error("{0}")]
    Broken(String),
    /// Nothing of use came for so long.
    #[error("the answer stalled: nothing came for {0} s")]
    Stalled(u64),
    /// An HTTP status that is no success, and the first line of what came with it.
    #[error("HTTP {0}: {1}")]
    Status(u16, String),
}

/// A head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// In lower case, without parameters.
    pub content_type: String,
    framing: Framing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Framing {
    Chunked(Chunks),
    Length(usize),
    UntilClose,
}

/// Where in a chunked body we are: bytes left in this chunk, or the line that tells the next one's size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Chunks {
    left: usize,
    line: Vec<u8>,
    /// The two bytes after a chunk.
    after: bool,
    done: bool,
}

/// What was made of a piece of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// There was something in it: the patience begins anew.
    Useful,
    /// Nothing in it yet. A server that drips such bytes is as stalled as one that is silent.
    Nothing,
    /// Seen enough.
    Enough,
}

/// One question.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// `GET` or `POST`.
    pub method: &'a str,
    /// Below the endpoint's base.
    pub path: &'a str,
    /// JSON.
    pub body: &'a str,
    /// How long nothing of use may come.
    pub patience: Duration,
}

/// Asks one server.
pub struct Client {
    endpoint: Endpoint,
    tls: Option<Tls>,
    /// A whole header line, or nothing.
    authorization: String,
}

impl Client {
    /// For `endpoint`, encrypted by `tls` if that is given, with `key` as the bearer of every request.
    #[must_use]
    pub fn new(endpoint: Endpoint, tls: Option<Tls>, key: Option<&str>) -> Client {
        let authorization = key.map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
        Client { endpoint, tls, authorization }
    }

    /// Asks, and hands each piece of the body to `take` as it comes. An answer other than 2xx is an error with the first
    /// line of its body.
    pub async fn ask(
        &self,
        question: Question<'_>,
        take: &mut dyn FnMut(&Head, &[u8]) -> Taken,
    ) -> Result<Head, HttpError> {
        let mut wire = self.connect().await?;
        wire.patience = question.patience;
        wire.begin_anew();
        wire.send(&self.text_of(question)).await?;
        let (mut head, rest) = read_head(&mut wire).await?;
        wire.begin_anew();
        let mut failed: Option<Vec<u8>> = (!(200..300).contains(&head.status)).then(Vec::new);
        let (mut input, mut total, mut piece) = (rest, 0usize, Vec::new());
        loop {
            piece.clear();
            let over = head.framing.decode(&input, &mut piece)?;
            total += piece.len();
            if total > BODY_BYTES_MAX {
                return Err(HttpError::Broken(format!("the answer is longer than {} MiB", BODY_BYTES_MAX >> 20)));
            }
            match &mut failed {
                Some(text) if text.len() < 2_000 => text.extend_from_slice(&piece),
                Some(text) => return Err(status_error(head.status, text)),
                None if piece.is_empty() => {}
                None => match take(&head, &piece) {
                    Taken::Enough => return Ok(head),
                    Taken::Useful => wire.begin_anew(),
                    Taken::Nothing => {}
                },
            }
            if over {
                break;
            }
            if wire.read(&mut input).await? == 0 {
                if head.framing == Framing::UntilClose {
                    break;
                }
                let what = "the server closed the connection in the middle of its answer";
                return Err(HttpError::Broken(what.to_owned()));
            }
        }
        match failed {
            Some(text) => Err(status_error(head.status, &text)),
            None => Ok(head),
        }
    }

    fn text_of(&self, question: Question<'_>) -> String {
        let Question { method, path, body, .. } = question;
        let (base, address, authorization) = (&self.endpoint.base, &self.endpoint.address, &self.authorization);
        format!(
            "{method} {base}{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{authorization}\
             Accept: text/event-stream, application/json\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    async fn connect(&self) -> Result<Wire, HttpError> {
        let address = &self.endpoint.address;
        let refused = |why: String| HttpError::Connect(address.clone(), why);
        let made = async {
            let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            let _ = stream.set_nodelay(true); // slower without it, and no less right
            let stream: Box<dyn Stream> = match &self.tls {
                None => Box::new(stream),
                Some(tls) => Box::new(tls.wrap(self.endpoint.host(), stream).await?),
            };
            Ok(stream)
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, made).await {
            Ok(Ok(stream)) => Ok(Wire { stream, patience: CONNECT_TIMEOUT, until: tokio::time::Instant::now() }),
            Ok(Err(why)) => Err(refused(why)),
            Err(_) => Err(refused(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
        }
    }
}

/// Bytes both ways, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A connection, and until when something of use must have come.
struct Wire {
    stream: Box<dyn Stream>,
    patience: Duration,
    until: tokio::time::Instant,
}

impl Wire {
    fn begin_anew(&mut self) {
        self.until = tokio::time::Instant::now() + self.patience;
    }

    async fn send(&mut self, text: &str) -> Result<(), HttpError> {
        let sent = async {
            self.stream.write_all(text.as_bytes()).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout_at(self.until, sent).await {
            Ok(sent) => sent.map_err(|error| HttpError::Broken(format!("sending the request: {error}"))),
            Err(_) => Err(HttpError::Stalled(self.patience.as_secs())),
        }
    }

    /// What comes next, instead of what was in `into`; its length.
    async fn read(&mut self, into: &mut Vec<u8>) -> Result<usize, HttpError> {
        into.resize(16 << 10, 0);
        match tokio::time::timeout_at(self.until, self.stream.read(into)).await {
            Ok(Ok(count)) => {
                into.truncate(count);
                Ok(count)
            }
            Ok(Err(error)) => Err(HttpError::Broken(format!("reading the answer: {error}"))),
            Err(_) => Err(HttpError::Stalled(self.patience.as_secs())),
        }
    }
}

async fn read_head(wire: &mut Wire) -> Result<(Head, Vec<u8>), HttpError> {
    let (mut bytes, mut more) = (Vec::new(), Vec::new());
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((parse_head(&String::from_utf8_lossy(&bytes[..end]))?, rest));
        }
        if bytes.len() > HEAD_BYTES_MAX || (bytes.len() >= 5 && !bytes.starts_with(b"HTTP/")) {
            return Err(HttpError::Broken("what answers there does not speak HTTP".to_owned()));
        }
        if wire.read(&mut more).await? == 0 {
            return Err(HttpError::Broken("the server closed the connection without an answer".to_owned()));
        }
        bytes.extend_from_slice(&more);
    }
}

fn parse_head(text: &str) -> Result<Head, HttpError> {
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let Some(status) = status else { return Err(HttpError::Broken("the status line cannot be read".to_owned())) };
    let (mut content_type, mut framing) = (String::new(), Framing::UntilClose);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim().to_ascii_lowercase();
        match name.to_ascii_lowercase().as_str() {
            "content-type" => value.split(';').next().unwrap_or("").trim().clone_into(&mut content_type),
            "transfer-encoding" if value.contains("chunked") => framing = Framing::Chunked(Chunks::default()),
            "content-length" if framing == Framing::UntilClose => {
                let length = value.parse().map_err(|_| HttpError::Broken("Content-Length is no number".to_owned()))?;
                framing = Framing::Length(length);
            }
            _ => {}
        }
    }
    Ok(Head { status, content_type, framing })
}

/// The message of an API's error, or the first line of whatever the body is.
fn status_error(status: u16, body: &[u8]) -> HttpError {
    let told: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let told = [&told["error"]["message"], &told["error"], &told["message"], &told["detail"]];
    let text = match told.into_iter().find_map(serde_json::Value::as_str) {
        Some(message) => message.into(),
        None => String::from_utf8_lossy(body),
    };
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect();
    HttpError::Status(status, if line.is_empty() { "no further word".to_owned() } else { line })
}

impl Framing {
    /// Appends what of `input` is body; true when the body is over.
    fn decode(&mut self, input: &[u8], body: &mut Vec<u8>) -> Result<bool, HttpError> {
        match self {
            Framing::UntilClose => {
                body.extend_from_slice(input);
                Ok(false)
            }
            Framing::Length(left) => {
                let count = input.len().min(*left);
                body.extend_from_slice(&input[..count]);
                *left -= count;
                Ok(*left == 0)
            }
            Framing::Chunked(chunks) => chunks.decode(input, body),
        }
    }
}

impl Chunks {
    fn decode(&mut self, mut input: &[u8], body: &mut Vec<u8>) -> Result<bool, HttpError> {
        while !input.is_empty() && !self.done {
            if self.left > 0 {
                let count = input.len().min(self.left);
                body.extend_from_slice(&input[..count]);
                self.left -= count;
                self.after = self.left == 0;
                input = &input[count..];
                continue;
            }
            let (byte, rest) = (input[0], &input[1..]);
            input = rest;
            if byte != b'\n' {
                self.line.push(byte);
                if self.line.len() > 1_024 {
                    return Err(HttpError::Broken("a chunk's size cannot be read".to_owned()));
                }
                continue;
            }
            let line = String::from_utf8_lossy(&self.line).trim().to_owned();
            self.line.clear();
            if std::mem::take(&mut self.after) && line.is_empty() {
                continue; // the end of the chunk before
            }
            let size = line.split(';').next().unwrap_or("").trim();
            let size = usize::from_str_radix(size, 16)
                .map_err(|_| HttpError::Broken(format!("a chunk's size cannot be read: {line:?}")))?;
            self.left = size;
            self.done = size == 0;
        }
        Ok(self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_of_servers() {
        let ok = |url: &str| Endpoint::parse(url).map(|e| (e.tls, e.address, e.base));
        assert_eq!(ok("http://127.0.0.1:8000/v1"), Ok((false, "127.0.0.1:8000".into(), "/v1".into())));
        assert_eq!(ok("http://localhost:11434/v1/"), Ok((false, "localhost:11434".into(), "/v1".into())));
        assert_eq!(ok("http://server"), Ok((false, "server:80".into(), String::new())));
        assert_eq!(ok("https://server/v1"), Ok((true, "server:443".into(), "/v1".into())));
        assert_eq!(Endpoint::parse("https://[::1]:8443/v1").expect("an address").host(), "::1");
        for bad in ["ftp://x/v1", "127.0.0.1:8000", "http://", "http://a b/", "http://x\r\nEvil: 1/", "http://u@h/"] {
            assert!(ok(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_is_told_by_its_message() {
        let cases = [
            (r#"{"error":{"message":"This model serves\nchats alone","code":404}}"#, "This model serves chats alone"),
            (r#"{"error":"CUDA out of memory"}"#, "CUDA out of memory"),
            (r#"{"object":"error","message":"no such model"}"#, "no such model"),
            (r#"{"detail":"Not Found"}"#, "Not Found"),
            (r#"{"detail":[{"loc":["body"]}]}"#, r#"{"detail":[{"loc":["body"]}]}"#),
            ("<h1>502  Bad Gateway</h1>", "<h1>502 Bad Gateway</h1>"),
            ("", "no further word"),
        ];
        for (body, told) in cases {
            assert_eq!(status_error(500, body.as_bytes()).to_string(), format!("HTTP 500: {told}"), "{body}");
        }
    }

    proptest! {
        #[test]
        fn chunks_come_out_whole_however_they_are_cut(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..8),
            step in 1usize..20,
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x};ext=1\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let (mut state, mut body, mut over) = (Chunks::default(), Vec::new(), false);
            for piece in wire.chunks(step) {
                over = state.decode(piece, &mut body).expect("well formed");
            }
            prop_assert!(over);
            prop_assert_eq!(body, chunks.concat());
        }

        #[test]
        fn nothing_that_a_server_sends_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut body = Vec::new();
            let _ = Chunks::default().decode(&bytes, &mut body); // an error is as good
            let _ = parse_head(&String::from_utf8_lossy(&bytes));
        }
    }
}
