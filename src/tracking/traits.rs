//! What a request tells of its client beside address and agent (`hit.traits`, see [`Hit::traits`](super::Hit)).

use super::judge::{BY_HAND, NO_FETCH_METADATA, NO_LANGUAGE, PREFETCH, Signal};

/// Chrome and its kin send Fetch Metadata from this version on, to addresses with TLS.
const CHROME_WITH_METADATA: u32 = 80;

/// The words of a request, read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Traits {
    /// It names languages.
    language: bool,
    /// It says in which mode it fetches, or from which site.
    metadata: bool,
    /// A person acted (`Sec-Fetch-User`).
    by_hand: bool,
    /// It says that it fetches ahead.
    prefetch: bool,
}

impl Traits {
    /// Reads what is stored; words that nobody knows are left out.
    pub(super) fn read(text: &str) -> Traits {
        let mut traits = Traits::default();
        for word in text.split(',') {
            match word {
                "lang" => traits.language = true,
                "user" => traits.by_hand = true,
                "prefetch" => traits.prefetch = true,
                _ if word.starts_with("mode=") || word.starts_with("site=") => traits.metadata = true,
                _ => {}
            }
        }
        traits
    }

    /// What they say of a click by a client that calls itself `agent`, a browser.
    pub(super) fn signals(self, agent: &str) -> impl Iterator<Item = Signal> {
        let no_metadata = !self.metadata && chrome_version(agent).is_some_and(|version| version >= CHROME_WITH_METADATA);
        [
            (!self.language).then_some(NO_LANGUAGE),
            no_metadata.then_some(NO_FETCH_METADATA),
            self.by_hand.then_some(BY_HAND),
            self.prefetch.then_some(PREFETCH),
        ]
        .into_iter()
        .flatten()
    }
}

/// Whether a trap was that of the header: some mail programs open it in a browser when a person unsubscribes.
pub(super) fn is_header_trap(traits: &str) -> bool {
    traits.split(',').any(|word| word == "trap=header")
}

fn chrome_version(agent: &str) -> Option<u32> {
    let (_, rest) = agent.split_once("Chrome/")?;
    rest.split('.').next()?.parse().ok()
}
