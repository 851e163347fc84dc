//! Named places where a rehearsal ends or freezes this process, exactly there: how else could a
//! test be sure that a crash between two steps loses nobody? Only in builds with debug assertions;
//! in a release build [`point`] is nothing, and `OPTIN_FAULT` is a variable that does not exist.

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// What happens at the point.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) enum Action {
        /// The process ends without destructors, flushes or goodbyes, as after `kill -9`.
        Die,
        /// It is stopped (SIGSTOP) until somebody sends SIGCONT.
        Stop,
    }

    /// `NAME:PASS` or `NAME:PASS:stop`.
    #[derive(Debug)]
    pub(super) struct Plan {
        pub(super) name: String,
        /// Counted from 1.
        pub(super) pass: u64,
        pub(super) action: Action,
        passed: AtomicU64,
    }

    static PLAN: OnceLock<Plan> = OnceLock::new();

    pub(super) fn parse(text: &str) -> Option<Plan> {
        let mut parts = text.split(':');
        let (name, pass) = (parts.next()?, parts.next()?.parse().ok().filter(|pass| *pass > 0)?);
        let action = match (parts.next(), parts.next()) {
            (None, None) => Action::Die,
            (Some("stop"), None) => Action::Stop,
            _ => return None,
        };
        Some(Plan { name: name.to_owned(), pass, action, passed: AtomicU64::new(0) })
    }

    /// Takes the plan for this process; the first one stays.
    ///
    /// # Errors
    ///
    /// When `text` is no plan.
    pub fn arm(text: &str) -> Result<(), String> {
        let plan =
            parse(text).ok_or_else(|| format!("`OPTIN_FAULT`: `{text}` is no plan: write `handed_over:17` or `handed_over:17:stop`"))?;
        PLAN.get_or_init(|| plan);
        Ok(())
    }

    /// Names a place. The process ends or freezes here when the plan says so.
    pub fn point(name: &str) {
        let Some(plan) = PLAN.get().filter(|plan| plan.name == name) else { return };
        if plan.passed.fetch_add(1, Ordering::SeqCst) + 1 != plan.pass {
            return;
        }
        match plan.action {
            Action::Die => std::process::abort(),
            Action::Stop => {
                // Waiting for `kill` keeps this thread here until the signal has stopped all threads.
                let stopped = std::process::Command::new("kill").arg("-STOP").arg(std::process::id().to_string()).status();
                if !stopped.is_ok_and(|status| status.success()) {
                    std::process::abort();
                }
            }
        }
    }
}

#[cfg(debug_assertions)]
pub use armed::{arm, point};

/// Names a place; nothing in this build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_name: &str) {}

#[cfg(test)]
#[cfg(debug_assertions)]
mod tests {
    use super::armed::{Action, parse};

    #[test]
    fn a_plan_names_a_place_a_pass_and_what_to_do() {
        let read = |text| parse(text).map(|plan| (plan.name, plan.pass, plan.action));
        assert_eq!(read("handed_over:17"), Some(("handed_over".to_owned(), 17, Action::Die)));
        assert_eq!(read("claimed:1:stop"), Some(("claimed".to_owned(), 1, Action::Stop)));
        for wrong in ["", "claimed", "claimed:0", "claimed:x", "claimed:1:go", "claimed:1:stop:now"] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn without_a_plan_a_point_is_nothing() {
        super::point("claimed");
    }
}
