//! The development inbox: SMTP in, pages out.

use super::*;

/// Speaks SMTP in one go, as PIPELINING allows, and answers what came back.
async fn smtp(address: SocketAddr, parts: &[&[u8]]) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    for part in parts {
        stream.write_all(part).await.unwrap();
        stream.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut answer)).await.expect("QUIT ends it").unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_inbox_keeps_mails_byte_for_byte_and_shows_them() {
    let database = TestDatabase::sqlite();
    let site = site(&database).await;
    let mail = "From: =?UTF-8?B?6Iy25bGL?= <letters@tea.example>\r\nSubject: =?UTF-8?Q?Oolong_=3Cb=3E_=E8=8C=B6?=\r\nMIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\n\r\n..two dots\r\n.one\r\nbare\n.\nlf\r\n<script>alert(1)</script>\r\n";
    let stuffed = mail.replace("\r\n.", "\r\n..");
    let commands = "EHLO me\r\nMAIL FROM:<bounce@tea.example> SIZE=500 BODY=8BITMIME\r\nRCPT TO:<mei@tea.example>\r\nRCPT TO:<茶@tea.example>\r\nDATA\r\n";
    let (first, second) = stuffed.split_at(stuffed.find("two").unwrap());
    // Split between the dots and within the end, as a network may.
    let answer = smtp(
        site.inbox.address(),
        &[commands.as_bytes(), first.as_bytes(), second.as_bytes(), b".", b"\r", b"\nRSET\r\nNOOP\r\nWHAT\r\nDATA\r\nQUIT\r\n"],
    )
    .await;
    let codes: Vec<&str> = answer.lines().filter(|line| line.as_bytes().get(3) == Some(&b' ')).map(|line| &line[..3]).collect();
    assert_eq!(codes, ["220", "250", "250", "250", "250", "354", "250", "250", "250", "502", "503", "221"], "{answer}");
    for extension in ["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE"] {
        assert!(answer.contains(&format!("250-{extension}")), "{answer}");
    }
    let kept = site.inbox.get(1).unwrap();
    assert_eq!(String::from_utf8_lossy(&kept.raw), mail);
    assert_eq!((kept.from.as_str(), kept.to.join(" ").as_str()), ("bounce@tea.example", "mei@tea.example 茶@tea.example"));
    assert_eq!(kept.summary().subject, "Oolong <b> 茶");

    let list = get(&site.url("/inbox?q=oolong"));
    assert_eq!(list.status, 200);
    assert!(list.text().contains("Oolong &#60;b&#62; 茶") && !list.text().contains("<b>"), "{}", list.text());
    assert!(!get(&site.url("/inbox?q=nothing-like-it")).text().contains("Oolong"));
    let page = get(&site.url("/inbox/1"));
    assert!(page.text().contains("sandbox=") && !page.text().contains("<script"), "{}", page.text());
    let html = get(&site.url("/inbox/1/html"));
    assert!(html.text().contains("<script>alert(1)"), "as it was sent");
    assert!(html.header("content-security-policy").unwrap().contains("sandbox"));
    assert_eq!(get(&site.url("/inbox/1/raw")).body, mail.as_bytes());
    assert_eq!(get(&site.url("/inbox/2")).status, 404);
    let json = get(&site.url("/inbox.json")).text();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["messages"][0]["subject"], "Oolong <b> 茶");
    assert_eq!(json["messages"][0]["to"][1], "茶@tea.example");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_inbox_refuses_what_is_too_big_and_listens_on_this_machine_only() {
    let refused = Inbox::start("0.0.0.0:0".parse().unwrap(), Clock::manual(NOW)).await.unwrap_err();
    assert!(refused.to_string().contains("127.0.0.1"), "{refused}");
    let inbox = Inbox::start("127.0.0.1:0".parse().unwrap(), Clock::manual(NOW)).await.unwrap();
    let long = [b"NOOP ".as_slice(), &vec![b'x'; 10_000], b"\r\n"].concat();
    let answer =
        smtp(inbox.address(), &[b"HELO me\r\nMAIL FROM:<> SIZE=99999999999\r\n", &long, b"MAIL FROM:<>\r\nDATA\r\nQUIT\r\n"]).await;
    let codes: Vec<&str> = answer.lines().map(|line| &line[..3]).collect();
    assert_eq!(codes, ["220", "250", "552", "500", "250", "503", "221"], "{answer}");
    // Bigger than it said: read to its end, refused, and the session goes on.
    let line = [vec![b'x'; 998], b"\r\n".to_vec()].concat();
    let big = line.repeat(34 * 1024);
    let answer = smtp(
        inbox.address(),
        &[
            b"HELO me\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n",
            &big,
            b".\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\nsmall\r\n.\r\nQUIT\r\n",
        ],
    )
    .await;
    let codes: Vec<&str> = answer.lines().map(|line| &line[..3]).collect();
    assert_eq!(codes, ["220", "250", "250", "250", "354", "552", "250", "250", "354", "250", "221"], "{answer}");
    assert_eq!((inbox.received(), inbox.messages()[0].raw.as_slice()), (1, b"small\r\n".as_slice()));
}
