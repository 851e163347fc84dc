//! An SMTP server that throws mails away, answers each after a fixed time, and writes down when mails
//! to `m-..` arrived: `RECIPIENT MICROSECONDS_SINCE_1970` lines on standard output.
//!
//! Usage: receiver PORT MILLISECONDS_A_MAIL. `COUNT` instead of a command answers how many mails came.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

static MAILS: AtomicU64 = AtomicU64::new(0);
/// More than a mail: what is sent in one go is read in one go.
const BUFFER_BYTES: usize = 64 << 10;

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).map(|text| text.parse().expect("a number")).collect();
    let [port, wait_ms] = numbers[..] else { panic!("receiver PORT MILLISECONDS_A_MAIL") };
    let listener = TcpListener::bind(("127.0.0.1", port as u16)).expect("the port is free");
    for stream in listener.incoming().flatten() {
        thread::spawn(move || {
            // A client that goes away without QUIT is none of our business.
            let _ = talk(stream, Duration::from_millis(wait_ms));
        });
    }
}

fn talk(stream: TcpStream, wait: Duration) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = BufWriter::new(stream.try_clone()?);
    let mut input = BufReader::with_capacity(BUFFER_BYTES, stream);
    let (mut line, mut noted) = (Vec::new(), None);
    out.write_all(b"220 receiver ESMTP\r\n")?;
    loop {
        // Replies to pipelined commands travel together.
        if input.buffer().is_empty() {
            out.flush()?;
        }
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let verb = line[..line.len().min(4)].to_ascii_uppercase();
        match verb.as_slice() {
            b"EHLO" => out.write_all(b"250-receiver\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n")?,
            b"RCPT" => {
                let text = String::from_utf8_lossy(&line);
                let address = text.split(['<', '>']).nth(1).unwrap_or_default();
                noted = address.starts_with("m-").then(|| address.to_owned());
                out.write_all(b"250 2.1.5 ok\r\n")?;
            }
            b"DATA" => {
                out.write_all(b"354 go on\r\n")?;
                out.flush()?;
                loop {
                    line.clear();
                    if input.read_until(b'\n', &mut line)? == 0 {
                        return Ok(());
                    }
                    if line == b".\r\n" {
                        break;
                    }
                }
                if let Some(address) = noted.take() {
                    let at = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
                    let mut log = std::io::stdout().lock();
                    writeln!(log, "{address} {}", at.as_micros())?;
                    log.flush()?;
                }
                thread::sleep(wait);
                MAILS.fetch_add(1, Ordering::Relaxed);
                out.write_all(b"250 2.0.0 taken\r\n")?;
            }
            b"QUIT" => {
                out.write_all(b"221 2.0.0 bye\r\n")?;
                return out.flush();
            }
            b"COUN" => writeln!(out, "250 {}\r", MAILS.load(Ordering::Relaxed))?,
            _ => out.write_all(b"250 2.0.0 ok\r\n")?,
        }
    }
}
