//! What a value must look like. Each check answers what is wrong and what to write instead.

use super::diagnostics::did_you_mean;

/// A complaint: what is wrong, and what to do.
pub(super) type Complaint = (String, String);

/// Characters of a topic's, segment's, campaign's or layout's name: they stand in URLs and tables.
pub(super) const MAX_NAME_CHARS: usize = 64;
/// Characters of an attribute's name: with its type letter it must fit PostgreSQL's 63-byte names.
pub(super) const MAX_ATTRIBUTE_CHARS: usize = 50;
/// A shorter secret could be guessed by trying: 16 characters of base64 are 96 bits.
pub(super) const MIN_SECRET_CHARS: usize = 16;
/// Octets of an address (RFC 5321 4.5.3.1.3, without the brackets).
const MAX_EMAIL_BYTES: usize = 254;
/// Fields every contact has; an attribute cannot take their names. `contact::BUILT_IN_FIELDS` says
/// the same (the room above us); a test holds the two together.
pub(super) const BUILT_IN_FIELDS: &[&str] = &["email", "first_name", "last_name", "locale", "timezone", "phone", "external_id"];

fn complaint<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T, Complaint> {
    Err((message.into(), hint.into()))
}

/// `[a-z0-9][a-z0-9_-]*`
pub(super) fn name(what: &str, name: &str) -> Result<(), Complaint> {
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    let fits = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()) && name.chars().all(letters);
    if fits && name.len() <= MAX_NAME_CHARS {
        return Ok(());
    }
    let hint = format!("use lower-case letters, digits, `-` and `_`, at most {MAX_NAME_CHARS}, with a letter or digit first");
    complaint(format!("`{name}` cannot be the name of a {what}"), hint)
}

/// `[a-z][a-z0-9_]*`, and no field that every contact has.
pub(super) fn attribute_name(name: &str) -> Result<(), Complaint> {
    if BUILT_IN_FIELDS.contains(&name) {
        return complaint(format!("`{name}` is a field every contact has"), "remove this line: it needs no declaration");
    }
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(letters) && name.len() <= MAX_ATTRIBUTE_CHARS {
        return Ok(());
    }
    let hint = format!("use lower-case letters, digits and `_`, at most {MAX_ATTRIBUTE_CHARS}, with a letter first");
    complaint(format!("`{name}` cannot be the name of an attribute"), hint)
}

/// The public address; answers it without a trailing slash.
pub(super) fn site_url(text: &str) -> Result<String, Complaint> {
    let hint = "write the address recipients reach, such as `https://news.tea.example`";
    let redacted = crate::config::redact(text);
    let url = match url::Url::parse(text) {
        Ok(url) => url,
        Err(error) => return complaint(format!("`{redacted}` is not a URL: {error}"), hint),
    };
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return complaint(format!("`{redacted}` is not a web address"), hint);
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
        return complaint("a site's address has no user, query or fragment", hint);
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// `#1f6b4a`
pub(super) fn colour(text: &str) -> Result<(), Complaint> {
    match text.parse::<super::Colour>() {
        Ok(_) => Ok(()),
        Err(()) => complaint(format!("`{text}` is not a colour"), "write it as on the web: `#1f6b4a`"),
    }
}

/// `address:port`
pub(super) fn listen(text: &str) -> Result<std::net::SocketAddr, Complaint> {
    text.parse().or_else(|_| {
        complaint(
            format!("`{text}` is not an address and a port"),
            "write `127.0.0.1:8080` for this machine only, or `0.0.0.0:8080` for all its networks",
        )
    })
}

/// `sqlite://path` or `postgres://..`
pub(super) fn database_url(text: &str) -> Result<(), Complaint> {
    let hint = "write `sqlite://optin.db` or `postgres://user:password@host/database`";
    let redacted = crate::config::redact(text);
    if let Some(path) = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:")) {
        return if path.is_empty() || path.starts_with('?') { complaint("the database URL names no file", hint) } else { Ok(()) };
    }
    if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
        return complaint(format!("`{redacted}` is not a database URL"), hint);
    }
    match url::Url::parse(text) {
        Ok(_) => Ok(()),
        Err(error) => {
            complaint(format!("`{redacted}` is not a database URL: {error}"), format!("{hint}; write `%40` for an `@` in a password"))
        }
    }
}

/// `smtp://user:password@host:port?tls=required`, `smtps://..`
pub(super) fn smtp_url(text: &str) -> Result<(), Complaint> {
    let hint = "write `smtp://host:port`, `smtp://user:password@host:587?tls=required` or `smtps://..`";
    let redacted = crate::config::redact(text);
    let url = match url::Url::parse(text) {
        Ok(url) => url,
        Err(error) => return complaint(format!("`{redacted}` is not an SMTP URL: {error}"), hint),
    };
    if !matches!(url.scheme(), "smtp" | "smtps") || url.host_str().is_none_or(str::is_empty) {
        return complaint(format!("`{redacted}` is not an SMTP URL"), hint);
    }
    for (key, value) in url.query_pairs() {
        match (key.as_ref(), value.as_ref()) {
            ("tls", "required" | "opportunistic" | "none") | ("pipelining", "chain" | "group" | "off") => {}
            ("tls", _) => {
                return complaint(
                    format!("unknown value `{value}` of `tls`"),
                    "write `?tls=required`, `?tls=opportunistic` or `?tls=none`",
                );
            }
            ("pipelining", _) => {
                let hint = "write `?pipelining=chain`, `?pipelining=group` or `?pipelining=off`";
                return complaint(format!("unknown value `{value}` of `pipelining`"), hint);
            }
            _ => {
                let hint = "the options are `?tls=required|opportunistic|none` and `?pipelining=chain|group|off`";
                return complaint(format!("unknown option `{key}` in the SMTP URL"), hint);
            }
        }
    }
    Ok(())
}

/// One plain address.
pub(super) fn email(text: &str) -> Result<(), Complaint> {
    let hint = "write one plain address, such as `letters@tea.example`";
    let bad = |c: char| c.is_whitespace() || c.is_control() || "<>,;:\"()[]\\".contains(c);
    let fits = text.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty()
            && !domain.is_empty()
            && !domain.contains('@')
            && !text.contains(bad)
            && domain.split('.').all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'))
    });
    if fits && text.len() <= MAX_EMAIL_BYTES {
        Ok(())
    } else {
        complaint(format!("`{}` is not an email address", text.escape_debug()), hint)
    }
}

/// A domain's name; answers it in the form of the wire: lower case, `xn--..` (RFC 5890).
pub(super) fn domain(text: &str) -> Result<String, Complaint> {
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    match url::Host::parse(text) {
        Ok(url::Host::Domain(domain)) if domain.split('.').all(label) => Ok(domain),
        _ => complaint(
            format!("`{}` is not a domain", text.escape_debug()),
            "write the name alone, such as `tea.example`, without `@`, `*` or a dot at its end",
        ),
    }
}

/// A DKIM selector: labels of the DNS (RFC 6376 3.1).
pub(super) fn selector(text: &str) -> Result<(), Complaint> {
    let label = |label: &str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if text.len() <= MAX_NAME_CHARS && text.split('.').all(label) {
        return Ok(());
    }
    complaint(format!("`{}` is not a selector", text.escape_debug()), "use letters, digits, `-`, `_` and dots between them, such as `s1`")
}

/// An ISO 3166-1 country code.
pub(super) fn country(text: &str) -> Result<(), Complaint> {
    if text.len() == 2 && text.chars().all(|c| c.is_ascii_uppercase()) {
        return Ok(());
    }
    complaint(format!("`{}` is no country", text.escape_debug()), "write its two letters, such as `FR`, `DE` or `TW`")
}

/// A BCP 47 language tag.
pub(super) fn language(text: &str) -> Result<(), Complaint> {
    let mut parts = text.split('-');
    let fits = parts.next().is_some_and(|first| (2..=3).contains(&first.len()) && first.chars().all(|c| c.is_ascii_lowercase()))
        && parts.all(|part| (2..=8).contains(&part.len()) && part.chars().all(|c| c.is_ascii_alphanumeric()));
    if fits {
        return Ok(());
    }
    complaint(format!("`{}` is no language tag", text.escape_debug()), "write one such as `de`, `fr-CA` or `zh-Hant`")
}

/// One line of text that is not empty: it becomes part of a header.
pub(super) fn line(text: &str) -> Result<(), Complaint> {
    if text.trim().is_empty() {
        return complaint("this is empty", "write some text");
    }
    if text.chars().any(char::is_control) {
        return complaint("this holds a line break or another control character", "write it on one line");
    }
    Ok(())
}

/// Text that is not empty; line breaks are welcome.
pub(super) fn lines(text: &str) -> Result<(), Complaint> {
    if text.trim().is_empty() {
        return complaint("this is empty", "write some text");
    }
    if text.chars().any(|c| c.is_control() && c != '\n' && c != '\r') {
        return complaint("this holds a control character", "remove it");
    }
    Ok(())
}

/// A text that signs links.
pub(super) fn secret(text: &str) -> Result<(), Complaint> {
    if text.chars().count() >= MIN_SECRET_CHARS {
        return Ok(());
    }
    complaint(
        format!("the secret is shorter than {MIN_SECRET_CHARS} characters"),
        "let `openssl rand -base64 32` make one, and keep it: links in sent mails need it",
    )
}

/// Three letters of ISO 4217.
pub(super) fn currency(text: &str) -> Result<(), Complaint> {
    if text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Ok(());
    }
    complaint(format!("`{text}` is no currency"), "write its three letters, such as `TWD` or `EUR`")
}

/// Scheme, host and port of a website, as browsers send it in `Origin`.
pub(super) fn origin(text: &str) -> Result<String, Complaint> {
    let url = url::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    match url.map(|url| url.origin().ascii_serialization()) {
        Some(origin) if origin == text.trim_end_matches('/') => Ok(origin),
        Some(origin) => complaint(format!("`{text}` is more than an origin"), format!("write `{origin}`")),
        None => complaint(format!("`{text}` is no origin"), "write scheme and host of the website: `https://shop.example`"),
    }
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, Complaint> {
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let words = choices.iter().map(|(word, _)| *word);
    let hint = match did_you_mean(text, words.clone()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("write one of {}", super::reader::list(words)),
    };
    complaint(format!("unknown value `{text}`"), hint)
}

/// `info`, or directives such as `info,optin=debug`.
pub(super) fn log_level(text: &str) -> Result<(), Complaint> {
    const LEVELS: &[(&str, ())] = &[("error", ()), ("warn", ()), ("info", ()), ("debug", ()), ("trace", ()), ("off", ())];
    text.split(',').try_for_each(|directive| {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level).trim();
        one_of(level, LEVELS)
    })
}

/// An IANA zone.
pub(super) fn name_server(text: &str) -> Result<std::net::SocketAddr, Complaint> {
    text.parse().or_else(|_| {
        complaint(
            format!("`{text}` is not the address and port of a name server"),
            "write `192.0.2.53:53`, or leave the key out to ask the system's",
        )
    })
}

pub(super) fn timezone(text: &str) -> Result<(), Complaint> {
    if text == "recipient" {
        return complaint("a schedule in each recipient's own zone is not known to this version", "name one zone, such as `Asia/Taipei`");
    }
    if jiff::tz::TimeZone::get(text).is_ok() {
        return Ok(());
    }
    let names: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
    let hint = match did_you_mean(text, names.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => "write an IANA name, such as `Asia/Taipei`, `Europe/London` or `UTC`".to_owned(),
    };
    complaint(format!("unknown time zone `{text}`"), hint)
}

/// A local date and time.
pub(super) fn local_time(text: &str) -> Result<(), Complaint> {
    let hint = "write a local date and time, such as `\"2026-12-01T09:00\"`; the zone stands in `timezone`";
    let has_offset = text.ends_with(['Z', 'z']) || text.get(10..).is_some_and(|time| time.contains(['+', '-']));
    if has_offset || text.get(10..).is_none_or(str::is_empty) || text.parse::<jiff::civil::DateTime>().is_err() {
        return complaint(format!("`{text}` is not a local date and time"), hint);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_cannot_take_the_names_of_fields() {
        assert_eq!(BUILT_IN_FIELDS, crate::contact::BUILT_IN_FIELDS);
    }

    #[test]
    fn addresses_are_one_plain_address() {
        for good in ["letters@tea.example", "小明@例子.example", "a+b@localhost"] {
            assert!(email(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "a@", "@b.c", "a b@c.d", "A <a@b.c>", "a@b@c", "a@b..c", "a@b.c\r\nBcc: d@e.f", "a@-b.c", "a@b,c"] {
            assert!(email(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn urls_are_checked_and_passwords_never_shown() {
        assert_eq!(site_url("https://a.example/").as_deref(), Ok("https://a.example"));
        for bad in ["a.example", "ftp://a.example", "https://", "https://a.example/?x=1", "https://u:p@a.example"] {
            assert!(site_url(bad).is_err(), "{bad}");
        }
        for bad in ["mysql://u:geheim@h/d", "postgres://u:geheim@h:x/d"] {
            let (message, _) = database_url(bad).expect_err(bad);
            assert!(!message.contains("geheim"), "{message}");
        }
        for bad in ["http://u:geheim@h", "smtp://u:geheim@h:99999", "smtp://u:geheim@h?tls=maybe", "smtp://u:geheim@h?pool=3"] {
            let (message, _) = smtp_url(bad).expect_err(bad);
            assert!(!message.contains("geheim"), "{message}");
        }
        assert!(smtp_url("smtps://u:p@h:465").is_ok() && smtp_url("smtp://127.0.0.1:2525?tls=none").is_ok());
    }

    #[test]
    fn local_times_have_a_day_and_an_hour_and_no_offset() {
        assert!(local_time("2026-12-01T09:00").is_ok() && local_time("2026-12-01 09:00:30").is_ok());
        for bad in ["2026-12-01", "09:00", "2026-13-01T09:00", "2026-12-01T09:00Z", "2026-12-01T09:00+08:00", "soon", "二〇二六年"] {
            assert!(local_time(bad).is_err(), "{bad}");
        }
    }
}
