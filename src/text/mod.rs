//! Text that people read: languages, and addresses shown without giving them away.

pub mod i18n;
mod words;

/// An address as it may stand in a log line: first character, domain.
pub fn mask_email(email: &str) -> String {
    match email.rsplit_once('@') {
        Some((local, domain)) => format!("{}***@{domain}", local.chars().next().unwrap_or('*')),
        None => "***".to_owned(),
    }
}

/// A text of somebody else's (a relay's reply) without the addresses in it, for logs and for what is kept
/// beyond the person: each word with an `@` becomes `***`.
pub fn without_addresses(text: &str) -> String {
    let named = |word: &&str| word.contains('@');
    if !text.contains('@') {
        return text.to_owned();
    }
    text.split(' ').map(|word| if named(&word) { "***" } else { word }).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_lose_their_addresses_and_keep_the_rest() {
        assert_eq!(without_addresses("452 4.2.2 <mei@tea.example>: mailbox full"), "452 4.2.2 *** mailbox full");
        assert_eq!(without_addresses("421 4.7.28 slow down"), "421 4.7.28 slow down");
    }
}
