//! One SMTP session, against servers of every kind.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use optin::delivery::smtp::{Failure, Reply, Session, SmtpSettings};

use crate::send::{each_once, people, send, shop};
use crate::support::process::repository;
use crate::support::smtp::{Encryption, Login, Script, Sink};
use crate::support::{Instance, TestDatabase};

const FROM: &str = "letters@tea.example";
const PATIENCE: Duration = Duration::from_secs(5);

/// What a scripted server answers to the nth MAIL, RCPT, DATA, message (`.`) or other command, from
/// 1, instead of the polite answer; `CLOSE` at the end closes the connection.
type Answers = &'static [(&'static str, usize, &'static str)];

#[derive(Clone, Copy, Default)]
struct Manners {
    answers: Answers,
    ehlo: &'static str,
    byte_by_byte: bool,
}

/// A server for one session. It logs what it was told: commands as they came, messages as
/// `message of N`, with a `+` where more of the group was there already.
struct Scripted {
    url: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    fn start(manners: Manners) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = log.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let _ = serve(stream, manners, &kept);
            }
        });
        Scripted { url, log }
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    async fn session(&self, options: &str) -> Session {
        let settings = SmtpSettings::parse(&format!("{}{options}", self.url), PATIENCE).unwrap();
        Session::open(&settings, "optin.example").await.unwrap()
    }
}

fn serve(stream: TcpStream, manners: Manners, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    let mut say = |text: &str| -> std::io::Result<bool> {
        let (text, closes) = text.strip_suffix("CLOSE").map_or((text, false), |text| (text, true));
        if !text.is_empty() {
            let bytes = format!("{}\r\n", text.trim_end()).into_bytes();
            let size = if manners.byte_by_byte { 1 } else { bytes.len() };
            for piece in bytes.chunks(size) {
                writer.write_all(piece)?;
            }
        }
        if closes {
            writer.shutdown(std::net::Shutdown::Write)?;
        }
        Ok(!closes)
    };
    say("220 scripted.example")?;
    let mut in_data = false;
    let mut accepted = false;
    loop {
        let (event, polite) = if in_data {
            let mut bytes = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line)? == 0 {
                    log.lock().unwrap().push("hung up in a message".to_owned());
                    return Ok(());
                }
                if line == ".\r\n" {
                    break;
                }
                bytes += line.len();
            }
            let more = if reader.buffer().is_empty() { "" } else { "+" };
            log.lock().unwrap().push(format!("message of {bytes}{more}"));
            accepted = false;
            (".".to_owned(), "250 2.0.0 taken".to_owned())
        } else {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            log.lock().unwrap().push(line.trim_end().to_owned());
            let verb = line.split([' ', ':']).next().unwrap_or_default().trim_end().to_owned();
            let polite = match verb.as_str() {
                "EHLO" => format!("250-scripted.example\r\n250 {}", manners.ehlo),
                "DATA" if accepted => "354 go ahead".to_owned(),
                "DATA" => "554 5.5.1 no recipient".to_owned(),
                "QUIT" => "221 bye CLOSE".to_owned(),
                _ => "250 2.1.0 ok".to_owned(),
            };
            (verb, polite)
        };
        let count = counts.entry(event.clone()).or_default();
        *count += 1;
        let scripted = manners.answers.iter().find(|(verb, at, _)| *verb == event && at == count);
        let answer = scripted.map_or(polite.as_str(), |(_, _, answer)| answer);
        accepted |= event == "RCPT" && answer.starts_with('2');
        accepted &= event != "MAIL" && event != "RSET";
        in_data = event == "DATA" && answer.starts_with('3');
        if !say(answer)? {
            // A socket that is closed with something unread resets the connection, and takes along what it said.
            reader.get_ref().set_read_timeout(Some(Duration::from_millis(200)))?;
            let _ = std::io::copy(&mut reader, &mut std::io::sink());
            return Ok(());
        }
    }
}

fn old(result: &Result<Reply, Failure>) -> String {
    result.as_ref().map_or_else(word, |reply| reply.code.to_string())
}

fn next(result: &Result<(), Failure>) -> String {
    result.as_ref().map_or_else(word, |()| "354".to_owned())
}

fn word(failure: &Failure) -> String {
    match failure {
        Failure::Refused { stage, reply } => format!("{} {stage:?}", reply.code),
        Failure::Broken { stage, .. } => format!("broken {stage:?}"),
        Failure::NeedsSmtpUtf8 => "smtputf8".to_owned(),
    }
}

const POLITE: Manners = Manners { answers: &[], ehlo: "PIPELINING", byte_by_byte: false };

/// Answers, what became of the old mail, of the next one, and whether the session is of use afterwards.
const CHAINS: &[(Answers, &str, &str, bool)] = &[
    (&[], "250", "354", true),
    (&[("RCPT", 2, "550 5.1.1 nobody")], "250", "550 Rcpt", true),
    (&[("RCPT", 2, "550 5.1.1 nobody"), ("DATA", 2, "354 go")], "250", "550 Rcpt", true),
    (&[("RCPT", 2, "550 5.1.1 nobody"), ("DATA", 2, "354 go"), (".", 2, "554 5.5.1 no recipient")], "250", "550 Rcpt", true),
    (&[("RCPT", 2, "571 5.7.1 nobody")], "250", "571 Rcpt", true),
    (&[("RCPT", 2, "450-4.2.0 a\r\n450 4.2.0 b")], "250", "450 Rcpt", true),
    (&[("MAIL", 2, "451 4.3.0 later")], "250", "451 Mail", true),
    (&[("DATA", 2, "451 4.3.0 later")], "250", "451 Data", true),
    (&[(".", 1, "451 4.3.0 later")], "451 Final", "354", true),
    (&[(".", 1, "250")], "250", "354", true),
    (&[(".", 1, "554 5.6.0 no"), ("RCPT", 2, "550 5.1.1 nobody")], "554 Final", "550 Rcpt", true),
    (&[(".", 1, "250 2.0.0 taken CLOSE")], "250", "broken Mail", false),
    (&[(".", 1, "CLOSE")], "broken Final", "broken Mail", false),
    (&[(".", 1, "421 4.3.2 closing CLOSE")], "421 Final", "broken Mail", false),
    // It says goodbye and keeps talking: nothing more is waited for.
    (&[(".", 1, "421 4.3.2 closing")], "421 Final", "broken Mail", false),
    (&[(".", 1, "250 2.0.0 taken\r\n421 4.3.2 enough CLOSE")], "250", "421 Mail", false),
    (&[("MAIL", 2, "421 4.3.2 closing CLOSE")], "250", "421 Mail", false),
    (&[("RCPT", 2, "421 4.3.2 closing CLOSE")], "250", "421 Rcpt", false),
    (&[("DATA", 2, "421 4.3.2 closing CLOSE")], "250", "421 Data", false),
    (&[("MAIL", 2, "CLOSE")], "250", "broken Mail", false),
    (&[("RCPT", 2, "CLOSE")], "250", "broken Rcpt", false),
    (&[("DATA", 2, "CLOSE")], "250", "broken Data", false),
    // What the relay said tells more than that it hung up.
    (&[("RCPT", 2, "550 5.1.1 nobody CLOSE")], "250", "550 Rcpt", false),
    (&[("MAIL", 2, "530 5.7.0 sign in first")], "250", "broken Mail", false),
    (&[(".", 1, "HTTP/1.1 400 Bad Request")], "broken Final", "broken Mail", false),
    (&[(".", 1, "354 what")], "broken Final", "broken Mail", false),
    (&[("DATA", 2, "250 what")], "250", "broken Data", false),
];

#[tokio::test]
async fn a_chained_mail_and_the_next_envelope_are_told_apart() {
    for (answers, old_mail, next_mail, useful) in CHAINS {
        for (ehlo, options, byte_by_byte) in
            [("PIPELINING", "", false), ("PIPELINING", "", true), ("PIPELINING", "?pipelining=group", false), ("SIZE", "", false)]
        {
            let server = Scripted::start(Manners { answers, ehlo, byte_by_byte });
            let name = format!("{answers:?} {ehlo} {options} {byte_by_byte}");
            let mut session = server.session(options).await;
            session.envelope(FROM, "a@customer.example").await.unwrap();
            let chains = ehlo == "PIPELINING" && options.is_empty();
            assert_eq!(session.can_chain(), chains, "{name}");
            let (first, second) = session.body_then_envelope(b"Subject: a\r\n\r\na\r\n", FROM, "b@customer.example").await;
            assert_eq!(old(&first), *old_mail, "{name} {first:?}");
            assert_eq!(next(&second), *next_mail, "{name} {second:?}");
            let mut last = Ok(());
            if second.is_ok() {
                session.body(b"b").await.unwrap();
                last = session.envelope(FROM, "c@customer.example").await;
            } else if *useful {
                last = session.envelope(FROM, "c@customer.example").await;
            }
            if *useful {
                assert!(last.is_ok() && session.is_alive(), "{name} {last:?}");
                // The answer to the second message: without pipelining there was no empty one.
                let expected =
                    if ehlo == "SIZE" && answers.iter().any(|(verb, at, _)| (*verb, *at) == (".", 2)) { "554 Final" } else { "250" };
                assert_eq!(old(&session.body(b"c").await), expected, "{name}");
            } else {
                let after = session.envelope(FROM, "c@customer.example").await.unwrap_err();
                assert_eq!(word(&after), "broken Mail", "{name}");
                assert!(!session.is_alive() && !session.can_chain(), "{name}");
            }
            let log = server.log();
            assert_eq!(log.iter().any(|line| line.ends_with('+')), chains, "{name} {log:?}");
        }
    }
}

#[tokio::test]
async fn what_is_refused_at_once_costs_the_session_nothing() {
    let server = Scripted::start(Manners { ehlo: "PIPELINING\r\n250 SIZE 20", ..POLITE });
    // Two last lines: the second one is an answer to nothing.
    let session = server.session("").await;
    for _ in 0..500 {
        if !session.is_alive() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!session.is_alive());
    let server = Scripted::start(Manners { ehlo: "SIZE 20", ..POLITE });
    let mut session = server.session("").await;
    assert_eq!(word(&session.envelope(FROM, "用户@customer.example").await.unwrap_err()), "smtputf8");
    assert_eq!(session.fits(20), Ok(()));
    let too_large = session.fits(21).unwrap_err();
    assert_eq!(word(&too_large), "552 Mail");
    assert!(too_large.to_string().starts_with("552 5.3.4 the message has 21 octets"), "{too_large}");
    session.envelope(FROM, "a@customer.example").await.unwrap();
    let (first, second) = session.body_then_envelope(b"Subject: too large a mail\r\n", FROM, "b@customer.example").await;
    assert_eq!((old(&first), next(&second)), ("552 Mail".to_owned(), "broken Mail".to_owned()));
    session.abandon();
    let log = crate::support::wait_until("the server sees the end", 5, || {
        let log = server.log();
        log.iter().any(|line| line == "hung up in a message").then_some(log)
    });
    assert!(!log.iter().any(|line| line.starts_with("message")), "{log:?}");
}

#[tokio::test]
async fn an_idle_session_that_the_relay_closed_is_noticed() {
    for answers in [&[("NOOP", 1, "250 2.0.0 ok CLOSE")][..], &[("NOOP", 1, "250 2.0.0 ok\r\n421 4.3.2 idle for too long")]] {
        let server = Scripted::start(Manners { answers, ..POLITE });
        let mut session = server.session("").await;
        assert!(session.is_alive());
        session.noop().await.unwrap();
        crate::support::wait_until("the end is noticed", 5, || (!session.is_alive()).then_some(()));
        assert!(session.noop().await.is_err());
    }
}

#[tokio::test]
async fn an_abandoned_mail_does_not_exist() {
    let sink = Sink::start();
    let settings = SmtpSettings::parse(&sink.url(), PATIENCE).unwrap();
    let mut session = Session::open(&settings, "optin.example").await.unwrap();
    session.envelope(FROM, "a@customer.example").await.unwrap();
    let (first, second) = session.body_then_envelope(b"Subject: a\r\n", FROM, "b@customer.example").await;
    assert!(first.is_ok() && second.is_ok());
    session.abandon();
    let mut session = Session::open(&settings, "optin.example").await.unwrap();
    session.envelope(FROM, "c@customer.example").await.unwrap();
    session.body(b"Subject: c\r\n").await.unwrap();
    session.quit().await;
    let to: Vec<String> = sink.received().iter().map(|mail| mail.to.join(" ")).collect();
    assert_eq!(to, ["a@customer.example", "c@customer.example"]);
}

#[tokio::test]
async fn messages_arrive_byte_for_byte_one_person_each() {
    let messages: Vec<Vec<u8>> =
        ["a", "a\r\n", ".", ".\r\n", "..\r\n.\r\n.x\r\n", "x\r\n.\r\nQUIT\r\n", "a\r\n\r\n\r\n", "Subject: x\r\n\r\nbody\r\n."]
            .iter()
            .map(|text| text.as_bytes().to_vec())
            .chain([format!("{}\r\n", "0123456789.".repeat(80)).repeat(100).into_bytes()])
            .collect();
    for encryption in [Encryption::Never, Encryption::StartTls("server")] {
        let sink = Sink::with(Script { encryption, ..Script::default() });
        let settings = SmtpSettings::parse(&sink.url(), PATIENCE).unwrap();
        let mut session = Session::open(&settings, "optin.example").await.unwrap();
        session.envelope(FROM, "p0@customer.example").await.unwrap();
        for (at, message) in messages.iter().enumerate() {
            let (first, second) = session.body_then_envelope(message, FROM, &format!("p{}@customer.example", at + 1)).await;
            assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
        }
        session.body(b"\xff\xfe\r\n.\r\n").await.unwrap();
        session.quit().await;
        let received = sink.received();
        each_once(&received, messages.len() + 1);
        for (mail, message) in received.iter().zip(&messages) {
            let whole = if message.ends_with(b"\r\n") { message.clone() } else { [message, &b"\r\n"[..]].concat() };
            assert_eq!(mail.data, whole, "{:?}", String::from_utf8_lossy(message));
            assert_eq!(mail.encrypted, encryption != Encryption::Never);
        }
        assert!(received[messages.len()].data.starts_with(b"\xff\xfe\r\n.\r\n"));
        assert_eq!(sink.breaches(), ["8-bit data without BODY=8BITMIME"], "only the bytes that are no text");
    }
}

/// A shop that trusts our authority, with a relay at this scheme and options.
fn tls_shop(database: &TestDatabase, sink: &Sink, url: &str) -> Instance {
    let shop = shop(database, sink);
    shop.write("ca.pem", std::fs::read(repository().join("tests/fixtures/tls/ca.pem")).unwrap());
    let url = url.replace("SINK", &format!("127.0.0.1:{}", sink.port()));
    shop.with_env("OPTIN_SMTP__URL", &url)
}

#[test]
fn mails_go_over_tls_and_after_a_login_as_configured() {
    const LOGIN: Login = Login { mechanisms: "PLAIN LOGIN XOAUTH2", user: "mei", password: "p@ss 茶" };
    const MEI: &str = "mei:p%40ss%20%E8%8C%B6@SINK";
    let only = |mechanisms| Some(Login { mechanisms, ..LOGIN });
    type Case<'a> = (&'a str, Encryption, Option<Login>, String, &'a [(&'a str, &'a str)], bool, Option<&'a str>);
    let cases: Vec<Case<'_>> = vec![
        ("starttls", Encryption::StartTls("elsewhere"), None, "smtp://SINK".into(), &[], true, None),
        ("no tls", Encryption::StartTls("server"), None, "smtp://SINK?tls=none".into(), &[], false, None),
        ("broken starttls", Encryption::BrokenStartTls, None, "smtp://SINK".into(), &[], false, None),
        (
            "required",
            Encryption::StartTls("server"),
            None,
            "smtp://SINK?tls=required".into(),
            &[("OPTIN_SMTP__CA_FILE", "ca.pem")],
            true,
            None,
        ),
        ("implicit", Encryption::Implicit("server"), None, "smtps://SINK".into(), &[("OPTIN_SMTP__CA_FILE", "ca.pem")], true, None),
        ("plain", Encryption::Never, Some(LOGIN), format!("smtp://{MEI}"), &[], false, Some("mei PLAIN")),
        ("login", Encryption::StartTls("server"), only("LOGIN"), format!("smtp://{MEI}"), &[], true, Some("mei LOGIN")),
        ("asked", Encryption::Never, Some(LOGIN), format!("smtp://{MEI}"), &[("OPTIN_SMTP__AUTH", "login")], false, Some("mei LOGIN")),
        ("token", Encryption::Never, Some(LOGIN), format!("smtp://{MEI}"), &[("OPTIN_SMTP__AUTH", "xoauth2")], false, Some("mei XOAUTH2")),
    ];
    for (name, encryption, login, url, variables, encrypted, signed_in) in cases {
        let sink = Sink::with(Script { encryption, login, ..Script::default() });
        let database = TestDatabase::sqlite();
        let shop = variables.iter().fold(tls_shop(&database, &sink, &url), |shop, (key, value)| shop.with_env(key, value));
        people(&shop, 5);
        let output = send(&shop, &[]);
        assert_eq!(output.code, 0, "{name}: {output}");
        let received = sink.received();
        each_once(&received, 5);
        assert!(received.iter().all(|mail| mail.encrypted == encrypted && mail.login.as_deref() == signed_in), "{name}: {received:#?}");
        assert_eq!(sink.breaches(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_relay_that_cannot_be_trusted_or_entered_is_named_and_costs_nobody_a_bounce() {
    const LOGIN: Login = Login { mechanisms: "PLAIN", user: "mei", password: "right" };
    let ca: &[(&str, &str)] = &[("OPTIN_SMTP__CA_FILE", "ca.pem")];
    let token: &[(&str, &str)] = &[("OPTIN_SMTP__AUTH", "xoauth2")];
    type Case<'a> = (Encryption, Option<Login>, &'a str, &'a [(&'a str, &'a str)], &'a str);
    let cases: Vec<Case<'_>> = vec![
        (Encryption::Implicit("server"), None, "smtps://SINK", &[], "`ca_file`"),
        (Encryption::StartTls("server"), None, "smtp://SINK?tls=required", &[], "`ca_file`"),
        (Encryption::Implicit("elsewhere"), None, "smtps://SINK", ca, "is for mail.elsewhere.example, mx.elsewhere.example"),
        (Encryption::StartTls("expired"), None, "smtp://SINK?tls=required", ca, "expired at 2001-01-02"),
        (Encryption::Never, None, "smtp://SINK?tls=required", &[], "does not offer STARTTLS"),
        (Encryption::Never, None, "smtps://SINK", &[], "write `smtp://` with `?tls=required`"),
        (Encryption::Implicit("server"), None, "smtp://SINK", &[], "write `smtps://`"),
        (Encryption::BrokenStartTls, None, "smtp://mei:right@SINK", &[], "broke off while TLS was set up"),
        (
            Encryption::Never,
            Some(LOGIN),
            "smtp://mei:wrong@SINK",
            &[],
            "refused the login of `mei` (AUTH PLAIN): 535 5.7.8 bad credentials",
        ),
        (Encryption::Never, None, "smtp://mei:right@SINK", &[], "the server offers no AUTH; does it want TLS first?"),
        (Encryption::Never, Some(LOGIN), "smtp://mei:right@SINK", token, "offers AUTH PLAIN, not XOAUTH2"),
        (Encryption::Never, Some(Login { mechanisms: "XOAUTH2", ..LOGIN }), "smtp://mei:old@SINK", token, "{\"status\":\"invalid_token\"}"),
    ];
    for (encryption, login, url, variables, said) in cases {
        let sink = Sink::with(Script { encryption, login, ..Script::default() });
        let database = TestDatabase::sqlite();
        let shop = variables.iter().fold(tls_shop(&database, &sink, url), |shop, (key, value)| shop.with_env(key, value));
        people(&shop, 2);
        let output = send(&shop, &["--wait", "1"]);
        let summary = output.json();
        assert_eq!((&summary["due"], &summary["bounced"], &summary["failed"]), (&2.into(), &0.into(), &0.into()), "{url}: {output}");
        assert!(output.stderr.contains(said), "{said}: {output}");
        assert!(!output.stderr.contains("right") && !output.stderr.contains("wrong"), "a password is shown: {output}");
        assert_eq!(sink.received().len(), 0);
    }
}

#[test]
fn a_relay_that_asks_for_a_login_we_do_not_have_is_no_persons_failure() {
    let sink = Sink::with(Script { login: Some(Login { mechanisms: "PLAIN", user: "mei", password: "right" }), ..Script::default() });
    let database = TestDatabase::sqlite();
    let shop = shop(&database, &sink);
    people(&shop, 3);
    let summary = send(&shop, &["--wait", "0"]).json();
    assert_eq!((&summary["bounced"], &summary["failed"]), (&0.into(), &0.into()), "{summary}");
}

#[test]
fn mistakes_in_a_relays_tls_and_login_are_found_before_anything_is_sent() {
    let sink = Sink::start();
    let database = TestDatabase::sqlite();
    let cases: [(&str, &str, &str, &str); 6] = [
        ("smtps://SINK", "OPTIN_SMTP__CA_FILE", "none.pem", "cannot read"),
        ("smtps://SINK", "OPTIN_SMTP__CA_FILE", "topics.toml", "holds no certificate"),
        ("smtp://SINK", "OPTIN_SMTP__CA_FILE", "ca.pem", "`ca_file` has no effect"),
        ("smtp://SINK", "OPTIN_SMTP__AUTH", "login", "`auth` needs a user"),
        ("smtp://SINK?pipelining=fast", "OPTIN_SMTP__AUTH", "", "unknown value `fast` of `pipelining`"),
        ("smtp://SINK?pool=3", "OPTIN_SMTP__AUTH", "", "unknown option `pool`"),
    ];
    for (url, key, value, said) in cases {
        let output = tls_shop(&database, &sink, url).with_env(key, value).optin(&["check"]);
        assert!(output.code != 0 && output.stderr.contains(said) || output.stdout.contains(said), "{said}: {output}");
    }
}

#[test]
fn replies_that_bend_the_rules_are_understood() {
    let cases: [(&'static str, &str, &str); 4] = [
        ("571 5.7.1 not you", "bounced", "571 5.7.1 not you"),
        ("479 later", "deferred", ""),
        ("550", "bounced", "550"),
        ("550-5.1.1 a\r\n550-\r\n550 5.1.1 b", "bounced", "550 5.1.1 a"),
    ];
    for (reply, state, shown) in cases {
        let sink = Sink::with(Script::refusing("p1@", reply));
        let database = TestDatabase::sqlite();
        let shop = shop(&database, &sink);
        people(&shop, 3);
        let summary = send(&shop, &["--wait", "0"]).json();
        assert_eq!((&summary["sent"], &summary[state]), (&2.into(), &1.into()), "{reply}: {summary}");
        if !shown.is_empty() {
            let run = shop.optin(&["run", "show", &summary["run"].to_string(), "--json"]).json();
            let text = run["bounced_mails"][0]["reply"].as_str().unwrap().to_owned();
            assert!(text.starts_with(shown), "{text}");
        }
    }
}
