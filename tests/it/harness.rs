//! The harness itself: what other tests lean on must hold.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use optin::args;

use crate::support::process::call;
use crate::support::smtp::{Ending, Script, Sink};
use crate::support::{command, databases, http, instance, on_each_database, optin};

on_each_database!(
    async fn every_test_has_an_empty_migrated_database(database) {
        let db = database.open().await;
        let contacts: i64 = db.fetch_one("SELECT COUNT(*) FROM contact", args![]).await.unwrap().get(0).unwrap();
        assert_eq!(contacts, 0);
        let version: i64 = db.fetch_one("SELECT MAX(version) FROM schema_migration", args![]).await.unwrap().get(0).unwrap();
        assert_eq!(version, optin::db::latest_version());
    }
);

#[test]
fn there_is_one_database_of_each_kind() {
    let names: Vec<_> = databases().iter().map(|database| database.name).collect();
    assert_eq!(names, ["sqlite", "postgres"]);
}

/// Speaks SMTP by hand: sends each line, reads one reply after it, answers all replies.
fn speak(port: u16, lines: &[&str]) -> Vec<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let mut replies = vec![reply(&mut stream)];
    for line in lines {
        // The server may have hung up: its last words are still to be read.
        let _ = stream.write_all(format!("{line}\r\n").as_bytes());
        replies.push(reply(&mut stream));
    }
    replies
}

/// One reply (all its lines); empty when the server hung up.
fn reply(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(1) => text.push(byte[0]),
            _ => return String::from_utf8_lossy(&text).into_owned(),
        }
        let last = text.split(|&byte| byte == b'\n').rfind(|line| !line.is_empty()).unwrap_or(&[]);
        if text.ends_with(b"\n") && last.get(3) == Some(&b' ') {
            return String::from_utf8_lossy(&text).trim_end().to_owned();
        }
    }
}

const ENVELOPE: [&str; 4] = ["EHLO me.example", "MAIL FROM:<a@tea.example> BODY=8BITMIME", "RCPT TO:<mei@example.com>", "DATA"];

#[test]
fn the_sink_keeps_a_message_byte_for_byte_and_undoes_dot_stuffing() {
    let sink = Sink::start();
    let replies = speak(sink.port(), &[&ENVELOPE[..], &["Subject: x\r\n\r\n..dot\r\n茶\r\n.", "QUIT"]].concat());
    assert!(replies[1].contains("250-PIPELINING"), "{replies:?}");
    assert_eq!(replies.last().map(String::as_str), Some("221 2.0.0 bye"));
    let mails = sink.wait_for(1, 5);
    assert_eq!(mails[0].text(), "Subject: x\r\n\r\n.dot\r\n茶\r\n");
    assert_eq!((mails[0].from.as_str(), &mails[0].to[..]), ("a@tea.example", &["mei@example.com".to_owned()][..]));
    assert_eq!((mails[0].session, mails[0].parameters.as_str()), (0, "BODY=8BITMIME"));
    assert_eq!((sink.breaches(), sink.sessions(), sink.most_at_a_time()), (Vec::new(), 1, 1));
}

#[test]
fn the_sink_names_breaches_of_protocol() {
    let sink = Sink::with(Script::default().without("PIPELINING").without("8BITMIME").without("SMTPUTF8"));
    let long = "x".repeat(999);
    let message = format!("bare\nlf\r\nbare\rcr\r\n{long}\r\n茶\0\r\n.");
    speak(sink.port(), &[ENVELOPE[0], "MAIL FROM:<茶@tea.example> SMTPUTF8", ENVELOPE[2], "DATA", &message, "WHAT", "NOOP\r\nNOOP"]);
    let breaches = sink.breaches().join("; ");
    for expected in ["bare LF", "bare CR", "999 octets", "8-bit", "NUL", "UTF-8 in a command", "SMTPUTF8", "unknown command", "pipelining"]
    {
        assert!(breaches.contains(expected), "`{expected}` is missing in: {breaches}");
    }
}

#[test]
fn the_sink_refuses_as_told() {
    let sink = Sink::with(Script::refusing("bad", "550 5.1.1 no such user"));
    sink.script(|script| {
        script.refuse_mail = Some(std::sync::Arc::new(|from| from.is_empty().then(|| "451 4.3.0 later".to_owned())));
        script.refuse_message = Some(std::sync::Arc::new(|text| text.contains("spam").then(|| "554 5.7.1 spam".to_owned())));
        script.mails_per_session = 1;
    });
    let replies = speak(
        sink.port(),
        &[
            "MAIL FROM:<>",
            "MAIL FROM:<a@tea.example>",
            "RCPT TO:<bad@example.com>",
            "DATA",
            "RCPT TO:<ok@example.com>",
            "DATA",
            "spam\r\n.",
            "RSET",
            "MAIL FROM:<a@tea.example>",
            "RCPT TO:<ok@example.com>",
            "DATA",
            "tea\r\n.",
            "NOOP",
        ],
    );
    let codes: Vec<&str> = replies.iter().map(|reply| reply.get(..3).unwrap_or("")).collect();
    assert_eq!(codes, ["220", "451", "250", "550", "554", "250", "354", "554", "250", "250", "250", "354", "250", "421"]);
    assert_eq!(sink.received().len(), 1);
}

#[test]
fn the_sink_hangs_up_where_told() {
    for (ending, kept, replies) in [(Ending::CloseAtData, 0, 4), (Ending::CloseAfterData, 0, 5), (Ending::CloseBeforeReply, 1, 5)] {
        let sink = Sink::with(Script { ending, ..Script::default() });
        let answers =
            speak(sink.port(), &[&ENVELOPE[..], &["Subject: a mail that is longer than sixty-four octets, on purpose\r\n."]].concat());
        let answered = answers.iter().filter(|answer| !answer.is_empty()).count();
        assert_eq!((sink.received().len(), answered), (kept, replies), "{ending:?}: {answers:?}");
    }
}

#[test]
fn the_sink_is_slow_or_talks_nonsense_as_told() {
    let delay = std::time::Duration::from_millis(60);
    let sink = Sink::with(Script { greeting_delay: delay, reply_delay: delay, ..Script::default() });
    let start = std::time::Instant::now();
    speak(sink.port(), &["NOOP"]);
    assert!(start.elapsed() >= delay * 2);
    sink.script(|script| script.nonsense = Some(b"\xff\xfe\0 HTTP/1.1 404 Not Found\r\n".to_vec()));
    let mut stream = TcpStream::connect(("127.0.0.1", sink.port())).unwrap();
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"\xff\xfe\0 HTTP/1");
}

#[test]
fn the_sink_goes_down_and_comes_up_on_its_port() {
    let mut sink = Sink::down(Script::default());
    assert!(TcpStream::connect(("127.0.0.1", sink.port())).is_err());
    sink.come_up();
    let mut stream = TcpStream::connect(("127.0.0.1", sink.port())).unwrap();
    assert!(reply(&mut stream).starts_with("220"));
    sink.go_down();
    assert_eq!(reply(&mut stream), "", "open sessions are cut");
    assert!(TcpStream::connect(("127.0.0.1", sink.port())).is_err());
    sink.come_up();
    assert!(speak(sink.port(), &["NOOP"])[1].starts_with("250"));
}

#[test]
fn the_http_client_sends_what_it_is_told_and_reads_what_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/path?a=b", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let mut requests = Vec::new();
        for stream in listener.incoming().take(3) {
            let mut stream = stream.unwrap();
            let (mut request, mut some) = (Vec::new(), [0; 1024]);
            while !String::from_utf8_lossy(&request).contains("\r\n\r\n") {
                let count = stream.read(&mut some).unwrap();
                request.extend_from_slice(&some[..count]);
            }
            requests.push(String::from_utf8(request).unwrap());
            stream.write_all(b"HTTP/1.1 202 Accepted\r\nX-Tea: oolong\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
        requests
    });
    let answer = http::get(&url);
    assert_eq!((answer.status, answer.header("x-tea"), answer.text().as_str()), (202, Some("oolong"), "ok"));
    http::head(&url);
    http::post(&url, "text/plain", b"");
    let requests = server.join().unwrap();
    assert!(requests[0].starts_with("GET /path?a=b HTTP/1.1\r\nHost: 127.0.0.1:"), "{requests:?}");
    assert!(requests[1].starts_with("HEAD ") && requests[2].contains("Content-Type: text/plain\r\nContent-Length: 0\r\n"));
}

#[test]
fn the_program_runs_in_a_scrubbed_environment() {
    let output = optin(&[]);
    assert!(output.code >= 0, "{output}");
    let sink = Sink::start();
    let databases = databases();
    let instance = instance(&databases[0], &[("topics.toml", "")]).with_smtp(&sink).with_env("OPTIN_LOG__LEVEL", "debug");
    assert!(instance.dir().join("optin.toml").is_file() && instance.root().is_dir());
    assert_eq!(instance.url("/healthz"), format!("http://127.0.0.1:{}/healthz", instance.port()));
    assert_eq!(instance.environment().get("OPTIN_SMTP__URL"), Some(sink.url().as_str()));
    let output = instance.optin(&["help"]);
    assert!(output.code >= 0, "{output}");
    let output = command(&["help"]).clock("2026-12-01T09:00:00Z").seed(7).stdin("").run();
    assert!(output.code >= 0, "{output}");
    let output = call("sh", &["-c", "cat; echo \", \\\"home\\\": \\\"$HOME\\\"}\"; exit 1"]).stdin("{\"read\": 3").run().exits(1);
    assert_eq!((&output.json()["read"], &output.json()["home"]), (&serde_json::json!(3), &serde_json::json!("")));
}

#[test]
fn a_running_process_is_read_signalled_and_waited_for() {
    let mut running = call("sh", &["-c", "trap 'echo bye; exit 3' TERM; echo ready >&2; while :; do sleep 0.05; done"]).spawn();
    assert!(running.id() > 0);
    assert_eq!(running.wait_for_line("read", 20), "stderr: ready");
    running.signal("TERM");
    assert_eq!(running.wait(20), (3, vec!["stderr: ready".to_owned(), "stdout: bye".to_owned()]));
}

#[test]
fn a_server_of_ones_own_keeps_what_was_committed_when_it_is_restarted() {
    let mut server = crate::support::postgres::Server::start_durable();
    let url = server.create_database("kept");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let open = || optin::db::Db::open(&url, optin::db::OpenOptions { relaxed: true, ..Default::default() });
    let count = |db: &optin::db::Db| {
        let row = runtime.block_on(db.fetch_one("SELECT COUNT(*) FROM schema_migration", optin::args![])).unwrap();
        row.get::<i64>(0).unwrap()
    };
    let before = runtime.block_on(open()).unwrap();
    let migrations = count(&before);
    for signal in ["INT", "QUIT"] {
        server.restart(signal);
        assert_eq!(count(&runtime.block_on(open()).unwrap()), migrations);
    }
}

#[test]
fn a_call_runs_under_another_program_and_its_last_lines_can_be_read() {
    let output = crate::support::command(&["--version"]).env("A", "b").under("env", &["C=d"]).run().exits(0);
    assert!(output.stdout.starts_with("optin "), "{output}");
    let mut running = crate::support::process::call("sh", &["-c", "echo one; echo two; sleep 20"]).spawn();
    running.wait_for_line("two", 10);
    assert_eq!(running.tail(1), "stdout: two");
}
