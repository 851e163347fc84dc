//! Each rule against its example, and the replies that mislead.

use super::*;

fn file() -> Vec<RuleEntry> {
    toml::from_str::<File>(SHIPPED).expect("data/replies.toml").rule
}

/// Reads `421 4.7.0 text` as the answer to RCPT.
fn read(provider: &str, reply: &str) -> Verdict {
    read_at(provider, reply, Stage::Rcpt)
}

fn read_at(provider: &str, reply: &str, stage: Stage) -> Verdict {
    let (code, text) = reply.split_once(' ').unwrap_or((reply, ""));
    read_reply(code.parse().expect("a code"), text, stage, provider)
}

#[track_caller]
fn slows(provider: &str, reply: &str) -> SlowDown {
    match read(provider, reply) {
        Verdict::SlowDown(signal) => signal,
        other => panic!("{provider}: {reply}: {other:?}"),
    }
}

#[track_caller]
fn bounces(provider: &str, reply: &str, expected: BounceClass) {
    assert!(matches!(read(provider, reply), Verdict::Bounce { class, .. } if class == expected), "{reply}: {:?}", read(provider, reply));
}

#[track_caller]
fn waits(provider: &str, reply: &str) {
    assert!(matches!(read(provider, reply), Verdict::Later { .. }), "{provider}: {reply}: {:?}", read(provider, reply));
}

#[track_caller]
fn is_ours(stage: Stage, reply: &str) {
    let verdict = read_at("other", reply, stage);
    assert!(matches!(verdict, Verdict::SenderProblem { .. }), "{reply}: {verdict:?}");
}

#[test]
fn every_rule_decides_its_example() {
    for entry in file() {
        let provider = entry.provider.as_deref().unwrap_or("other");
        let stage = match entry.stage.first() {
            Some(StageWord::Connect) => Stage::Connect,
            Some(StageWord::Mail) => Stage::Mail,
            Some(StageWord::Data) => Stage::Data,
            Some(StageWord::Final) => Stage::Final,
            Some(StageWord::Rcpt) | None => Stage::Rcpt,
        };
        let verdict = read_at(provider, &entry.example, stage);
        assert_eq!(verdict.rule(), entry.name, "{}: {verdict:?}", entry.example);
    }
}

#[test]
fn rules_are_whole() {
    let entries = file();
    let providers = crate::delivery::provider::Providers::shipped();
    let mut names = std::collections::BTreeSet::new();
    for entry in &entries {
        let name = &entry.name;
        assert!(names.insert(name), "two rules are called `{name}`");
        if let Some(provider) = &entry.provider {
            assert!(providers.names().any(|known| known == provider), "`{name}`: there is no provider `{provider}`");
        }
        for phrase in &entry.text {
            assert_eq!(*phrase, phrase.to_lowercase(), "`{name}`: phrases are compared in lower case");
            assert!(phrase.split('*').all(|piece| piece.len() >= 2), "`{name}`: `{phrase}` has a piece that fits anything");
        }
        match entry.means {
            MeansWord::Bounce => assert!(entry.class.is_some(), "`{name}`: a bounce has a class"),
            MeansWord::SlowDown => {
                assert!(entry.pause_seconds.is_some_and(|seconds| (1..=4 * 3_600).contains(&seconds)), "`{name}`: a pause up to 4 h");
            }
            MeansWord::Later | MeansWord::SenderProblem => {}
        }
        assert!(entry.class.is_none() || matches!(entry.means, MeansWord::Bounce), "`{name}`: a class belongs to a bounce");
        assert!(entry.hold_seconds.is_none() || entry.per_hour.is_some(), "`{name}`: what is held is a rate");
    }
    assert!(entries.len() > 70, "only {} rules", entries.len());
}

#[test]
fn a_421_is_about_rates_only_with_a_policy_code_or_words() {
    waits("other", "421 Service not available, closing transmission channel");
    waits("other", "421 4.4.2 mx.leaf.example Error: timeout exceeded");
    assert_eq!(slows("other", "421 4.7.0 Try again later, closing connection").rule, "asked-to-slow-down");
    slows("other", "421 Too many concurrent SMTP connections; please try again later");
}

#[test]
fn greylisting_touches_one_mail() {
    waits("other", "451 4.7.1 Greylisting in action, please come back later");
    waits("other", "450 4.2.0 <a@leaf.example>: Recipient address rejected: Greylisted, see http://postgrey.example");
    waits("other", "451 4.7.1 Please try again later");
    waits("other", "450 4.7.1 Client host rejected: cannot find your hostname");
    waits("yahoo", "421 4.7.0 [GL01] Message from (192.0.2.1) temporarily deferred");
}

#[test]
fn a_full_mailbox_is_one_persons_and_a_full_system_is_not() {
    waits("gmail", "452 4.2.2 The recipient's inbox is out of storage space. Please direct the recipient to free some");
    waits("other", "452 4.2.2 Mailbox full");
    assert_eq!(slows("other", "452 4.3.1 Insufficient system storage").scope, Scope::Provider);
    slows("other", "452 4.5.3 Too many recipients");
    slows("other", "452 Too many recipients received this hour");
    bounces("other", "552 5.2.2 Over quota", BounceClass::MailboxFull);
    assert!(!BounceClass::MailboxFull.address_is_dead());
}

#[test]
fn a_relay_that_throttles_is_throttled_as_a_whole() {
    let rate = slows("gmail", "454 Throttling failure: Maximum sending rate exceeded.");
    let day = slows("gmail", "454 Throttling failure: Daily message quota exceeded.");
    assert_eq!((rate.scope, day.scope), (Scope::Relay, Scope::Relay));
    assert!(rate.pause_ms < day.pause_ms);
    for stage in [Stage::Connect, Stage::Mail] {
        let verdict = read_at("gmail", "421 4.7.0 Too many messages", stage);
        assert!(matches!(verdict, Verdict::SlowDown(SlowDown { scope: Scope::Relay, .. })), "{verdict:?}");
    }
}

#[test]
fn gmail_asks_for_ten_minutes_at_least() {
    for reply in [
        "421 4.7.28 Gmail has detected an unusual rate of mail originating from your DKIM domain [tea.example 36].",
        "421-4.7.28 Gmail has detected this message has the same Message-ID as others",
        "421 4.7.0 Our system has detected an unusual rate of unsolicited mail originating from your IP address.",
        "421 4.7.29 Your email has been rate limited because it was not sent over a TLS connection.",
    ] {
        let reply = reply.replacen('-', " ", 1);
        assert!(slows("gmail", &reply).pause_ms >= 600 * SECOND, "{reply}");
    }
    waits("gmail", "450 4.2.1 The user you are trying to contact is receiving mail too quickly.");
    waits(
        "gmail",
        "550 5.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages from being delivered.",
    );
}

#[test]
fn a_deferral_that_calls_itself_permanent_is_none() {
    let signal = slows("yahoo", "421 4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred; Retrying will NOT succeed.");
    assert_eq!((signal.rule, signal.pause_ms), ("yahoo-permanently-deferred", 7_200 * SECOND));
    assert!(slows("yahoo", "421 4.7.0 [TSS05] Messages temporarily deferred").pause_ms > signal.pause_ms);
    slows("other", "421 All messages from 192.0.2.1 will be permanently deferred");
}

#[test]
fn a_550_of_qq_or_netease_may_mean_slower() {
    for reply in [
        "550 Sender frequency limited",
        "550 Ip frequency limited. http://service.mail.qq.com",
        "550 Domain frequency limited",
        "550 Connection frequency limited",
    ] {
        assert_eq!(slows("qq", reply).scope, Scope::Provider);
    }
    for reply in [
        "550 RP:ORQ",
        "550 MI:STC",
        "554 HL:ITC",
        "451 MI:SFQ",
        "550 RP:TRC mx9",
        "421 HL:IFC",
        "550 Requested mail action not taken: too much recipient",
    ] {
        slows("netease", reply);
    }
    waits("qq", "550 Mailbox unavailable or access denied");
    bounces("other", "550 Mailbox unavailable or access denied", BounceClass::NoSuchAddress);
    bounces(
        "qq",
        "550 Mailbox not found. http://service.exmail.qq.com/cgi-bin/help?subtype=1&&id=20022&&no=1000728",
        BounceClass::NoSuchAddress,
    );
}

#[test]
fn a_552_for_too_many_recipients_is_temporary() {
    waits("other", "552 Too many recipients");
    waits("other", "552 5.5.3 Too many recipients");
}

#[test]
fn policy_says_nothing_about_the_address() {
    for reply in [
        "550 5.7.1 Message rejected",
        "554 5.7.9 Message not accepted for policy reasons",
        "554 Your access to this mail system has been rejected due to poor reputation",
    ] {
        bounces("yahoo", reply, BounceClass::Blocked);
    }
    assert!(!BounceClass::Blocked.address_is_dead());
    slows(
        "microsoft365",
        "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3150).",
    );
}

#[test]
fn dead_addresses_are_found_by_code_and_by_words() {
    bounces("gmail", "550 5.1.1 The email account that you tried to reach does not exist.", BounceClass::NoSuchAddress);
    bounces("other", "550 #5.1.1 unknown", BounceClass::NoSuchAddress);
    bounces("other", "550 sorry (#5.1.1)", BounceClass::NoSuchAddress);
    bounces("microsoft365", "550 5.4.1 Recipient address rejected: Access denied. AS(201806281)", BounceClass::NoSuchAddress);
    bounces("microsoft365", "550 5.1.10 RESOLVER.ADR.RecipientNotFound; not found", BounceClass::NoSuchAddress);
    bounces("other", "556 5.1.10 null MX", BounceClass::NoSuchDomain);
    bounces("other", "554 delivery error: dd This mailbox is disabled", BounceClass::Disabled);
    bounces("other", "550 <a@leaf.example>: User unknown in virtual mailbox table", BounceClass::NoSuchAddress);
    bounces("other", "550 no", BounceClass::Other);
}

#[test]
fn what_is_our_fault_is_never_the_persons() {
    is_ours(Stage::Rcpt, "554 5.7.1 <a@leaf.example>: Relay access denied");
    is_ours(Stage::Rcpt, "550 5.7.1 Unable to relay");
    is_ours(Stage::Mail, "530 5.7.0 Authentication required");
    is_ours(Stage::Connect, "535 5.7.8 Error: authentication failed");
    is_ours(Stage::Mail, "550 5.1.1 who are you");
    is_ours(Stage::Mail, "553 sorry");
    is_ours(Stage::Connect, "554 no service here");
    is_ours(Stage::Final, "554 Message rejected: Email address is not verified. The following identities failed the check");
    is_ours(Stage::Final, "550 5.7.26 This mail is unauthenticated");
    is_ours(Stage::Rcpt, "550 5.1.8 <b@tea.example>: Sender address rejected: Domain not found");
}

#[test]
fn the_first_digit_decides_what_nobody_knows() {
    waits("other", "499 hm");
    waits("other", "450");
    bounces("other", "599 hm", BounceClass::Other);
    waits("other", "250 fine");
    waits("other", "0 nothing");
}

#[test]
fn the_basic_code_counts_where_the_enhanced_one_differs() {
    bounces("other", "550 4.1.1 gone", BounceClass::NoSuchAddress);
    slows("other", "421 5.7.0 not now");
    assert_eq!(enhanced_code("5.1.1 x"), Some((1, 1)));
    assert_eq!(enhanced_code("192.0.2.1 x"), None);
    assert_eq!(enhanced_code("5.1.1234"), None);
    assert_eq!(enhanced_code(""), None);
}

#[test]
fn odd_bytes_and_blanks_do_not_matter() {
    slows("qq", "550   IP\tFREQUENCY   Limited");
    waits("other", "450 ?????? \u{fffd}\u{130}");
    assert!(holds("a b c d", "b*d") && !holds("d b", "b*d"));
}
