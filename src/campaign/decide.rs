//! One decision, one function: whether this person gets this campaign now, and why.

use crate::consent::{Refusal, Standing};

/// Everything the decision depends on, about one person and one campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Where the person stands on the campaign's topic.
    pub standing: Standing,
    /// Why the address is suppressed, if it is.
    pub suppressed: Option<String>,
    /// Whether the audience's rule picks the person.
    pub in_audience: bool,
    /// Whether this run already has a delivery for the person.
    pub already_in_run: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A delivery is due.
    Send,
    /// Nothing is sent, for this reason.
    Skip(Reason),
}

/// Why somebody gets nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The audience's rule does not pick them.
    NotInAudience,
    /// The run has them already: once is enough.
    AlreadyInRun,
    /// There is no permission.
    NoPermission(Refusal),
}

impl Reason {
    /// As counted and stored.
    pub fn code(&self) -> &'static str {
        match self {
            Reason::NotInAudience => "not_in_audience",
            Reason::AlreadyInRun => "already_in_run",
            Reason::NoPermission(refusal) => refusal.code(),
        }
    }
}

/// Decides. The order of the checks is the order in which they are explained: permission first
/// (nothing else matters without it), then the audience, then the run.
pub fn decide(facts: &Facts) -> Verdict {
    if let Some(reason) = &facts.suppressed {
        return Verdict::Skip(Reason::NoPermission(Refusal::Suppressed(reason.clone())));
    }
    if facts.standing != Standing::Subscribed {
        return Verdict::Skip(Reason::NoPermission(Refusal::Standing(facts.standing)));
    }
    if !facts.in_audience {
        return Verdict::Skip(Reason::NotInAudience);
    }
    if facts.already_in_run {
        return Verdict::Skip(Reason::AlreadyInRun);
    }
    Verdict::Send
}
