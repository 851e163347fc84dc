//! Text that people read: languages, and addresses shown without giving them away.

pub mod i18n;

/// An address as it may stand in a log line: first character, domain.
pub fn mask_email(email: &str) -> String {
    match email.rsplit_once('@') {
        Some((local, domain)) => format!("{}***@{domain}", local.chars().next().unwrap_or('*')),
        None => "***".to_owned(),
    }
}
