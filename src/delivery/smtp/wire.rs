//! The stream under lettre: it reads whole replies and hands them over in the one form lettre reads.
//!
//! lettre stops at replies that relays do send (RFC 5321 section 4.2.1 asks to bear with them): a
//! code without a blank, codes with a second digit above 5 (`571`), lines over 1,000 octets, text
//! that is not UTF-8, a bare LF. It must also not look broken that a relay answers in GBK.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::reply::{MARK, Reply};

/// A reply longer than this, in octets, is no reply: RFC 5321 section 4.5.3.1.5 knows 512 a line,
/// and the longest EHLO answers have some 30 lines.
const MAX_REPLY: usize = 64 * 1024;
/// Octets of a line that lettre gets; it stops at 1,000.
const MAX_LINE: usize = 900;
/// Octets read at a time: more than the replies of a group have together.
const CHUNK: usize = 4096;

/// What the session wants to know of its stream, which lettre holds.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// The relay said something that no command has asked for.
    unread: AtomicBool,
    /// The lines of the last reply.
    lines: Mutex<Vec<String>>,
}

impl Heard {
    pub(super) fn unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug)]
pub(super) struct Wire<S> {
    inner: S,
    peer: SocketAddr,
    /// What came in and is not yet a whole reply.
    raw: Vec<u8>,
    /// A reply in lettre's form, and how much of it lettre has.
    ready: Vec<u8>,
    given: usize,
    heard: Arc<Heard>,
    /// Where a rehearsal may fail: the second half of a body is to be written.
    half_written: bool,
}

/// A whole reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) lines: Vec<String>,
}

impl Answer {
    pub(super) fn reply(&self) -> Reply {
        Reply::new(self.code, &self.lines.join(" "))
    }

    /// The reply as lettre reads it. What lettre could not read of the code goes into the text,
    /// behind [`MARK`].
    fn for_lettre(&self) -> Vec<u8> {
        let second = self.code / 10 % 10;
        let code = if second > 5 { self.code / 100 * 100 + 50 + self.code % 10 } else { self.code };
        // lettre looks for the server's name in the answer to EHLO, which may be empty.
        let marked = code != self.code || self.lines[0].trim().is_empty();
        let mut out = Vec::new();
        for (at, line) in self.lines.iter().enumerate() {
            let last = at + 1 == self.lines.len();
            let mark = if marked && at == 0 { format!("{MARK}{} ", self.code) } else { String::new() };
            let line = &line[..line.floor_char_boundary(MAX_LINE)];
            out.extend_from_slice(format!("{code}{}{mark}{line}\r\n", if last { ' ' } else { '-' }).as_bytes());
        }
        out
    }
}

impl<S> Wire<S> {
    pub(super) fn new(inner: S, peer: SocketAddr, heard: Arc<Heard>) -> Self {
        Wire { inner, peer, raw: Vec::new(), ready: Vec::new(), given: 0, heard, half_written: false }
    }

    /// Has lettre read this reply first.
    pub(super) fn replay(&mut self, answer: &Answer) {
        self.ready = answer.for_lettre();
        self.given = 0;
    }

    /// The stream itself, and whether the relay said more than was read.
    pub(super) fn into_inner(self) -> (S, bool) {
        (self.inner, !self.raw.is_empty())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Writes a command, if any, and reads one reply.
    pub(super) async fn ask(&mut self, command: Option<&str>) -> io::Result<Answer> {
        use tokio::io::AsyncWriteExt as _;
        if let Some(command) = command {
            self.inner.write_all(command.as_bytes()).await?;
            self.inner.flush().await?;
        }
        std::future::poll_fn(|context| self.poll_answer(context)).await
    }
}

impl<S: AsyncRead + Unpin> Wire<S> {
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Answer>> {
        loop {
            if let Some(answer) = take_answer(&mut self.raw)? {
                self.heard.unread.store(!self.raw.is_empty(), Ordering::Relaxed);
                return Poll::Ready(Ok(answer));
            }
            if self.raw.len() > MAX_REPLY {
                return Poll::Ready(Err(io::Error::other("the relay's reply does not end")));
            }
            let mut chunk = [0; CHUNK];
            let mut buffer = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer))
                .map_err(|error| io::Error::new(error.kind(), format!("the connection to the relay broke: {error}")))?;
            if buffer.filled().is_empty() {
                let when = if self.raw.is_empty() { "" } else { " in the middle of a reply" };
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the relay closed the connection{when}"))));
            }
            self.raw.extend_from_slice(buffer.filled());
        }
    }
}

/// Takes the first whole reply from `raw`, if there is one.
fn take_answer(raw: &mut Vec<u8>) -> io::Result<Option<Answer>> {
    let (mut lines, mut from) = (Vec::new(), 0);
    loop {
        let line = match raw[from..].iter().position(|byte| *byte == b'\n') {
            Some(length) => &raw[from..from + length],
            None if raw[from..].iter().take(3).all(u8::is_ascii_digit) => return Ok(None),
            None => return Err(nonsense(&raw[from..])),
        };
        let next = from + line.len() + 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let code = match line {
            [first @ b'2'..=b'5', rest @ ..] if rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_digit) => {
                u16::from(first - b'0') * 100 + u16::from(rest[0] - b'0') * 10 + u16::from(rest[1] - b'0')
            }
            _ => return Err(nonsense(line)),
        };
        let text = match line.get(3) {
            None => &[],
            Some(b' ' | b'-') => &line[4..],
            Some(_) => return Err(nonsense(line)),
        };
        // A lone CR would end lettre's line.
        lines.push(String::from_utf8_lossy(text).replace('\u{fffd}', "?").replace(['\r', MARK], " "));
        if line.get(3) != Some(&b'-') {
            raw.drain(..next);
            return Ok(Some(Answer { code, lines }));
        }
        from = next;
    }
}

fn nonsense(bytes: &[u8]) -> io::Error {
    // The content types of TLS records.
    if let [20..=23, 3, ..] = bytes {
        return io::Error::new(io::ErrorKind::InvalidData, "the server talks TLS on this port; write `smtps://`");
    }
    let said: String = String::from_utf8_lossy(bytes).chars().take(60).collect();
    io::Error::new(io::ErrorKind::InvalidData, format!("the server does not speak SMTP: it said `{}`", said.escape_debug()))
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.given == this.ready.len() {
            let answer = ready!(this.poll_answer(context))?;
            this.ready = answer.for_lettre();
            this.given = 0;
            *this.heard.lines.lock().unwrap_or_else(PoisonError::into_inner) = answer.lines;
        }
        let rest = &this.ready[this.given..];
        let length = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..length]);
        this.given += length;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Wire<S> {
    /// A write with a message's end in it goes out in two parts, with a place to fail after each.
    fn poll_write_in_halves(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let ends_a_message = bytes.windows(5).any(|end| end == b"\r\n.\r\n");
        let first = ends_a_message && !self.half_written && bytes.len() > 1;
        let part = if first { bytes.len() / 2 } else { bytes.len() };
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, &bytes[..part]))?;
        if first {
            self.half_written = true;
            crate::fault::point("body_half");
        } else if self.half_written && written == bytes.len() {
            self.half_written = false;
            crate::fault::point("dot_written");
        }
        Poll::Ready(Ok(written))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if cfg!(debug_assertions) {
            return self.poll_write_in_halves(context, bytes);
        }
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin + fmt::Debug> AsyncTokioStream for Wire<S> {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
mod tests {
    use super::*;

    #[test]
    fn replies_of_every_kind_are_read() {
        for (wire, code, lines) in [
            ("250 2.1.0 ok\r\n", 250, vec!["2.1.0 ok"]),
            ("250\r\n", 250, vec![""]),
            ("250-\r\n250\r\n", 250, vec!["", ""]),
            ("250-a\r\n250-b c\r\n250 d\r\n", 250, vec!["a", "b c", "d"]),
            ("250-a\n250 d\n", 250, vec!["a", "d"]),
            ("571 5.7.1 no\r\n", 571, vec!["5.7.1 no"]),
            ("550-a\r\n554 b\r\n", 554, vec!["a", "b"]),
            ("550 用户不存在\r\n", 550, vec!["用户不存在"]),
            ("450 a\rb\r\n", 450, vec!["a b"]),
        ] {
            let mut raw = Vec::new();
            for (at, byte) in wire.bytes().enumerate() {
                raw.push(byte);
                let answer = take_answer(&mut raw).unwrap();
                assert_eq!(answer.is_some(), at + 1 == wire.len(), "{wire:?} at {at}");
                if let Some(answer) = answer {
                    assert_eq!((answer.code, &answer.lines), (code, &lines.iter().map(|line| (*line).to_owned()).collect()), "{wire:?}");
                    let read: lettre::transport::smtp::response::Response =
                        String::from_utf8(answer.for_lettre()).unwrap().parse().unwrap();
                    assert_eq!(Reply::from_response(&read), answer.reply(), "{wire:?}");
                }
            }
            assert!(raw.is_empty());
        }
        let mut long = format!("550 {}\r\n250 next\r\n", "ä".repeat(3000)).into_bytes();
        let answer = take_answer(&mut long).unwrap().unwrap();
        assert!(answer.for_lettre().len() < 1000 && long == b"250 next\r\n");
        assert_eq!(take_answer(&mut b"550 utilisateur bloqu\xe9\r\n".to_vec()).unwrap().unwrap().lines, ["utilisateur bloqu?"]);
    }

    #[test]
    fn what_is_no_reply_is_said_at_once() {
        for wire in [&b"HTTP/1.1 400 Bad Request\r\n"[..], b"HT", b"650 x\r\n", b"25\r\n", b"2500 x\r\n", b"250-a\r\nno\r\n"] {
            let error = take_answer(&mut wire.to_vec()).unwrap_err().to_string();
            assert!(error.starts_with("the server does not speak SMTP: it said `"), "{error}");
        }
        assert!(take_answer(&mut b"\x15\x03\x01".to_vec()).unwrap_err().to_string().contains("smtps://"));
    }
}
