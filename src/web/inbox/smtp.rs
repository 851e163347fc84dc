//! A small SMTP receiver (RFC 5321) with PIPELINING, 8BITMIME, SMTPUTF8 and SIZE. It takes every
//! recipient and checks nothing: it is a letter box for tests.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::Inbox;

/// Bytes of a mail.
const MAIL_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of a command with its line end; RFC 5321 4.5.3.1.4 says 512, extensions add to it.
const COMMAND_BYTES: usize = 4 * 1024;
/// Recipients of one mail (RFC 5321 4.5.3.1.8: at least 100).
const RECIPIENTS: usize = 1_000;
/// How long a client may be silent (RFC 5321 4.5.3.2.7).
const SILENCE: Duration = Duration::from_secs(300);
/// The wait after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Read buffer: a common mail in one read.
const BUFFER_BYTES: usize = 64 * 1024;

/// Takes connections until `stop` turns true.
pub(super) async fn run(listener: TcpListener, inbox: Inbox, stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(tokio::spawn(session(stream, inbox.clone(), stop.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "the development inbox cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            () = stopped(stop.clone()) => return,
        }
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the inbox is gone, which is the same.
    stop.wait_for(|stop| *stop).await.ok();
}

async fn session(stream: TcpStream, inbox: Inbox, stop: watch::Receiver<bool>) {
    stream.set_nodelay(true).ok();
    let (read, write) = stream.into_split();
    let mut session = Session {
        input: BufReader::with_capacity(BUFFER_BYTES, read),
        output: write,
        replies: Vec::new(),
        envelope: Envelope::default(),
        inbox,
    };
    tokio::select! {
        result = session.talk() => if let Err(error) = result {
            tracing::debug!(%error, "a session of the development inbox ended early");
        },
        () = stopped(stop) => {}
    }
}

#[derive(Default)]
struct Envelope {
    from: Option<String>,
    to: Vec<String>,
}

struct Session {
    input: BufReader<OwnedReadHalf>,
    output: OwnedWriteHalf,
    /// Replies not sent yet: with PIPELINING several go out together.
    replies: Vec<u8>,
    envelope: Envelope,
    inbox: Inbox,
}

/// A line as read.
enum Line {
    Text(String),
    TooLong,
    End,
}

impl Session {
    async fn talk(&mut self) -> std::io::Result<()> {
        self.reply("220 optin development inbox ESMTP");
        loop {
            if self.input.buffer().is_empty() {
                self.flush().await?;
            }
            let line = match tokio::time::timeout(SILENCE, self.command()).await {
                Ok(line) => line?,
                Err(_) => {
                    self.reply("421 4.4.2 silent for too long");
                    return self.flush().await;
                }
            };
            match line {
                Line::Text(line) => {
                    if !self.obey(&line).await? {
                        return self.flush().await;
                    }
                }
                Line::TooLong => self.reply("500 5.5.2 line too long"),
                Line::End => return self.flush().await,
            }
        }
    }

    /// Carries out one command. False after QUIT.
    async fn obey(&mut self, line: &str) -> std::io::Result<bool> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => {
                self.envelope = Envelope::default();
                let size = format!("250-SIZE {MAIL_BYTES}");
                for reply in
                    ["250-localhost", "250-PIPELINING", "250-8BITMIME", "250-SMTPUTF8", "250-ENHANCEDSTATUSCODES", &size, "250 HELP"]
                {
                    self.reply(reply);
                }
            }
            "HELO" => {
                self.envelope = Envelope::default();
                self.reply("250 localhost");
            }
            "MAIL" => self.mail(rest),
            "RCPT" => self.rcpt(rest),
            "DATA" => return self.data().await.map(|()| true),
            "RSET" => {
                self.envelope = Envelope::default();
                self.reply("250 2.0.0 forgotten");
            }
            "NOOP" => self.reply("250 2.0.0 ok"),
            "HELP" => self.reply("214 2.0.0 this inbox takes every mail and shows it in the browser"),
            "VRFY" => self.reply("252 2.1.5 every recipient is taken"),
            "QUIT" => {
                self.reply("221 2.0.0 bye");
                return Ok(false);
            }
            _ => self.reply("502 5.5.1 command not known here"),
        }
        Ok(true)
    }

    fn mail(&mut self, rest: &str) {
        if self.envelope.from.is_some() {
            return self.reply("503 5.5.1 one MAIL at a time");
        }
        let Some((path, parameters)) = path(rest, "FROM:") else { return self.reply("501 5.5.4 write MAIL FROM:<address>") };
        let size = parameters
            .split_whitespace()
            .filter_map(|parameter| parameter.split_once('='))
            .find(|(name, _)| name.eq_ignore_ascii_case("SIZE"))
            .and_then(|(_, size)| size.parse::<usize>().ok());
        if size.is_some_and(|size| size > MAIL_BYTES) {
            return self.reply("552 5.3.4 the mail is too big");
        }
        self.envelope.from = Some(path.to_owned());
        self.reply("250 2.1.0 ok");
    }

    fn rcpt(&mut self, rest: &str) {
        if self.envelope.from.is_none() {
            return self.reply("503 5.5.1 MAIL first");
        }
        match path(rest, "TO:") {
            Some((path, _)) if !path.is_empty() => {
                if self.envelope.to.len() >= RECIPIENTS {
                    return self.reply("452 4.5.3 too many recipients");
                }
                self.envelope.to.push(path.to_owned());
                self.reply("250 2.1.5 ok");
            }
            _ => self.reply("501 5.5.4 write RCPT TO:<address>"),
        }
    }

    async fn data(&mut self) -> std::io::Result<()> {
        if self.envelope.from.is_none() || self.envelope.to.is_empty() {
            self.reply("503 5.5.1 MAIL and RCPT first");
            return Ok(());
        }
        self.reply("354 end with a dot on a line of its own");
        self.flush().await?;
        let Some(raw) = tokio::time::timeout(SILENCE, self.read_mail()).await?? else {
            self.envelope = Envelope::default();
            self.reply("552 5.3.4 the mail is too big");
            return Ok(());
        };
        let Envelope { from, to } = std::mem::take(&mut self.envelope);
        let id = self.inbox.keep(from.unwrap_or_default(), to, raw);
        self.reply(&format!("250 2.0.0 taken as {id}"));
        Ok(())
    }

    /// Reads to the dot. Only CR LF ends a line, so that no other reading of the dot can smuggle a
    /// second mail in. `None` when the mail is too big (it is read to its end all the same).
    async fn read_mail(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut mail = Vec::with_capacity(BUFFER_BYTES / 4);
        let mut too_big = false;
        // Where the line being read starts in `mail`; what is read so far may be a part of it.
        let mut line_start = 0;
        loop {
            let found = self.input.fill_buf().await?;
            if found.is_empty() {
                return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "closed within a mail"));
            }
            let used = found.iter().position(|byte| *byte == b'\n').map_or(found.len(), |at| at + 1);
            mail.extend_from_slice(&found[..used]);
            self.input.consume(used);
            if mail.ends_with(b"\r\n") {
                match &mail[line_start..] {
                    b".\r\n" => {
                        mail.truncate(line_start);
                        return Ok((!too_big).then_some(mail));
                    }
                    [b'.', ..] => drop(mail.remove(line_start)),
                    _ => {}
                }
                line_start = mail.len();
            }
            if mail.len() > MAIL_BYTES {
                too_big = true;
                // Keep the line being read, as long as it may still be the dot.
                let tail = if mail.len() - line_start < 3 { mail.split_off(line_start) } else { Vec::from(*b"x") };
                mail = tail;
                line_start = 0;
            }
        }
    }

    async fn command(&mut self) -> std::io::Result<Line> {
        let mut line = Vec::new();
        let mut too_long = false;
        loop {
            let found = self.input.fill_buf().await?;
            if found.is_empty() {
                return Ok(Line::End);
            }
            let end = found.iter().position(|byte| *byte == b'\n');
            let used = end.map_or(found.len(), |at| at + 1);
            if line.len() + used > COMMAND_BYTES {
                too_long = true;
                line.clear();
            } else {
                line.extend_from_slice(&found[..used]);
            }
            self.input.consume(used);
            if end.is_some() {
                return Ok(if too_long { Line::TooLong } else { Line::Text(String::from_utf8_lossy(&line).trim_end().to_owned()) });
            }
        }
    }

    fn reply(&mut self, text: &str) {
        self.replies.extend_from_slice(text.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        if !self.replies.is_empty() {
            self.output.write_all(&self.replies).await?;
            self.replies.clear();
        }
        Ok(())
    }
}

/// The address of `FROM:<address> PARAMETERS` and the parameters.
fn path<'a>(rest: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let rest = rest.trim_start();
    let after = rest.get(keyword.len()..).filter(|_| rest[..keyword.len()].eq_ignore_ascii_case(keyword))?;
    let inside = after.trim_start().strip_prefix('<')?;
    let close = inside.rfind('>')?;
    Some((&inside[..close], &inside[close + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_with_and_without_parameters() {
        assert_eq!(path("FROM:<a@b.example> SIZE=10 BODY=8BITMIME", "FROM:"), Some(("a@b.example", " SIZE=10 BODY=8BITMIME")));
        assert_eq!(path("from: <>", "FROM:"), Some(("", "")));
        assert_eq!(path("TO:<\"a>b\"@c.example>", "TO:"), Some(("\"a>b\"@c.example", "")));
        for bad in ["FROM:a@b", "TO:<a@b>", "", "FRÖM:<a>", "FROM:<a"] {
            assert_eq!(path(bad, "FROM:"), None, "{bad}");
        }
    }
}
