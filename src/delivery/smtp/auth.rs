//! Signing in (RFC 4954).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::transport::smtp::client::AsyncSmtpConnection;

use super::reply::{Failure, Reply, Stage, judge};
use super::settings::Login;
use crate::config::AuthMechanism;

fn name(mechanism: AuthMechanism) -> &'static str {
    match mechanism {
        AuthMechanism::Plain => "PLAIN",
        AuthMechanism::Login => "LOGIN",
        AuthMechanism::Xoauth2 => "XOAUTH2",
    }
}

/// The mechanism to use: the one asked for, or the first of PLAIN and LOGIN that is offered. A token
/// is sent only where XOAUTH2 was asked for.
///
/// # Errors
/// Why there is none.
pub(super) fn choose(asked: Option<AuthMechanism>, offers: &[String], encrypted: bool) -> Result<AuthMechanism, String> {
    // Old servers write `AUTH=LOGIN`.
    let offered: Vec<String> = offers
        .iter()
        .filter_map(|line| line.to_ascii_uppercase().strip_prefix("AUTH").map(str::to_owned))
        .flat_map(|rest| rest.split([' ', '=']).filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    if offered.is_empty() {
        let hint = if encrypted { "take user and password out of its URL" } else { "does it want TLS first? Then write `?tls=required`" };
        return Err(format!("the server offers no AUTH; {hint}"));
    }
    let wanted = asked.map_or_else(|| vec![AuthMechanism::Plain, AuthMechanism::Login], |asked| vec![asked]);
    wanted.iter().copied().find(|mechanism| offered.iter().any(|word| word == name(*mechanism))).ok_or_else(|| {
        let wanted: Vec<&str> = wanted.iter().map(|mechanism| name(*mechanism)).collect();
        format!("the server offers AUTH {}, not {}; see the relay's `auth`", offered.join(" "), wanted.join(" or "))
    })
}

/// # Errors
/// The server's words where it refused the login: the relay's problem, nobody's bounce.
pub(super) async fn log_in(connection: &mut AsyncSmtpConnection, mechanism: AuthMechanism, login: &Login) -> Result<(), Failure> {
    let Login { user, password } = login;
    let steps = match mechanism {
        AuthMechanism::Plain => vec![format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{user}\0{password}")))],
        AuthMechanism::Login => vec!["AUTH LOGIN".to_owned(), STANDARD.encode(user), STANDARD.encode(password)],
        AuthMechanism::Xoauth2 => {
            vec![format!("AUTH XOAUTH2 {}", STANDARD.encode(format!("user={user}\x01auth=Bearer {password}\x01\x01")))]
        }
    };
    let last = steps.len() - 1;
    let mut said = String::new();
    for (at, step) in steps.into_iter().enumerate() {
        let mut answer = connection.command(format!("{step}\r\n")).await;
        if at == last
            && mechanism == AuthMechanism::Xoauth2
            && let Ok(challenge) = &answer
            && challenge.has_code(334)
        {
            // The reason comes as a challenge; an empty line asks for the refusal.
            said = challenge
                .first_line()
                .and_then(|line| STANDARD.decode(line.trim()).ok())
                .map_or_else(String::new, |reason| format!(" ({})", crate::delivery::mime::clean_line(&String::from_utf8_lossy(&reason))));
            answer = connection.command("\r\n").await;
        }
        let expected = if at == last { 2 } else { 3 };
        match answer {
            Ok(response) if u16::from(response.code()) / 100 == expected => {}
            Ok(response) => {
                let reply = Reply::from_response(&response);
                return Err(refused(mechanism, user, &reply.to_string(), &said));
            }
            Err(error) => match judge(Stage::Connect, Err(error)) {
                Err(Failure::Refused { reply, .. }) => return Err(refused(mechanism, user, &reply.to_string(), &said)),
                other => return other.map(drop),
            },
        }
    }
    Ok(())
}

fn refused(mechanism: AuthMechanism, user: &str, reply: &str, said: &str) -> Failure {
    Failure::broken(Stage::Connect, format!("the relay refused the login of `{user}` (AUTH {}): {reply}{said}", name(mechanism)))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
mod tests {
    use super::*;

    #[test]
    fn the_mechanism_is_the_one_asked_for_or_the_first_offered() {
        let offers = |line: &str| vec!["relay.example".to_owned(), line.to_owned()];
        use AuthMechanism::{Login, Plain, Xoauth2};
        assert_eq!(choose(None, &offers("AUTH LOGIN PLAIN"), true), Ok(Plain));
        assert_eq!(choose(None, &offers("auth=login"), true), Ok(Login));
        assert_eq!(choose(Some(Login), &offers("AUTH PLAIN LOGIN"), true), Ok(Login));
        assert_eq!(choose(Some(Xoauth2), &offers("AUTH PLAIN XOAUTH2"), true), Ok(Xoauth2));
        assert!(choose(None, &offers("AUTH XOAUTH2"), true).unwrap_err().contains("not PLAIN or LOGIN"));
        assert!(choose(None, &offers("SIZE"), false).unwrap_err().contains("tls=required"));
        assert!(!choose(None, &offers("SIZE"), true).unwrap_err().contains("tls"));
    }
}
