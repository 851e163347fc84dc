//! One SMTP session, against servers of every kind.
