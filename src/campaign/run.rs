//! A run: one firing of a campaign, and the states it goes through.

use crate::clock::Time;

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Waits for its time.
    Scheduled,
    /// Its audience is being written.
    Preparing,
    /// Mail leaves.
    Sending,
    /// Somebody stopped it for now.
    Paused,
    /// Every delivery has an outcome.
    Done,
    /// Somebody ended it; what had not left stays unsent.
    Cancelled,
    /// It could not start or go on; see its reason.
    Failed,
}

impl RunState {
    /// As stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Scheduled => "scheduled",
            RunState::Preparing => "preparing",
            RunState::Sending => "sending",
            RunState::Paused => "paused",
            RunState::Done => "done",
            RunState::Cancelled => "cancelled",
            RunState::Failed => "failed",
        }
    }

    /// Reads a stored state.
    pub fn from_stored(text: &str) -> Option<Self> {
        use RunState::*;
        [Scheduled, Preparing, Sending, Paused, Done, Cancelled, Failed].into_iter().find(|state| state.as_str() == text)
    }

    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, RunState::Done | RunState::Cancelled | RunState::Failed)
    }
}

/// What can be done to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Its time has come.
    Start,
    /// The audience is written.
    AudienceWritten,
    /// Stop for now.
    Pause,
    /// Go on.
    Resume,
    /// End it.
    Cancel,
    /// Every delivery has an outcome.
    Finish,
    /// It cannot go on.
    Fail,
    /// Doubtful mails of a finished run are to be sent again.
    Reopen,
}

/// The state machine. `audience_done` tells where a resumed run goes on. `None` means the command
/// makes no sense in that state.
pub fn next_state(state: RunState, command: Command, audience_done: bool) -> Option<RunState> {
    use Command as C;
    use RunState as S;
    match (state, command) {
        (S::Scheduled, C::Start) => Some(S::Preparing),
        (S::Preparing, C::AudienceWritten) => Some(S::Sending),
        (S::Scheduled | S::Preparing | S::Sending, C::Pause) => Some(S::Paused),
        (S::Paused, C::Resume) => Some(if audience_done { S::Sending } else { S::Preparing }),
        (S::Scheduled | S::Preparing | S::Sending | S::Paused, C::Cancel) => Some(S::Cancelled),
        (S::Sending, C::Finish) => Some(S::Done),
        (S::Done, C::Reopen) => Some(S::Sending),
        (S::Scheduled | S::Preparing | S::Sending, C::Fail) => Some(S::Failed),
        (S::Scheduled, C::AudienceWritten | C::Resume | C::Finish | C::Reopen)
        | (S::Preparing, C::Start | C::Resume | C::Finish | C::Reopen)
        | (S::Sending, C::Start | C::AudienceWritten | C::Resume | C::Reopen)
        | (S::Paused, C::Start | C::AudienceWritten | C::Pause | C::Finish | C::Fail | C::Reopen)
        | (S::Done, C::Start | C::AudienceWritten | C::Pause | C::Resume | C::Cancel | C::Finish | C::Fail)
        | (S::Cancelled | S::Failed, _) => None,
    }
}

/// A run as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Our id.
    pub id: i64,
    /// Campaign name.
    pub campaign: String,
    /// Topic it rides on.
    pub topic_id: i64,
    /// What fired it: `manual-N` or the moment of its schedule. Unique per campaign.
    pub firing: String,
    /// Where it is.
    pub state: RunState,
    /// Why it failed or waits.
    pub reason: Option<String>,
    /// When it is or was due.
    pub scheduled_at: Time,
    /// When it began.
    pub started_at: Option<Time>,
    /// When it ended.
    pub finished_at: Option<Time>,
    /// SHA-256 of the definition, hex.
    pub definition_hash: String,
    /// The frozen campaign, JSON.
    pub definition: String,
    /// Who the rule picked but permission left out: JSON, reason to number.
    pub excluded: String,
    /// Deliveries written so far.
    pub audience: i64,
    /// The last contact looked at.
    pub audience_cursor: i64,
    /// Whether the audience is complete.
    pub audience_done: bool,
}
