//! Mails and what came back, and how the past is asked.

use super::{Compiler, ago};
use crate::db::Dialect;
use crate::segment::random;
use crate::segment::rule::{HitKind, Leaf, Mailed, Source};

/// Rows that belong to a contact and are counted.
pub(super) struct Past {
    /// `hit_total h JOIN run_link l ON ..`
    tables: String,
    /// Of the table with `contact_id`.
    alias: &'static str,
    /// What holds of each row and an index finds.
    served: Vec<String>,
    /// What else holds of each row.
    filter: Vec<String>,
    /// What holds of all rows of a contact together; nothing: there is one.
    together: Vec<String>,
}

impl Past {
    pub(super) fn new(tables: impl Into<String>, alias: &'static str) -> Self {
        Past { tables: tables.into(), alias, served: Vec::new(), filter: Vec::new(), together: Vec::new() }
    }

    /// Adds a condition that an index finds.
    pub(super) fn by(&mut self, condition: impl Into<String>) {
        self.served.push(condition.into());
    }

    /// Adds a condition that each row is looked at for.
    pub(super) fn and(&mut self, condition: impl Into<String>) {
        self.filter.push(condition.into());
    }

    /// Adds a condition on all rows of a contact.
    pub(super) fn together(&mut self, condition: impl Into<String>) {
        self.together.push(condition.into());
    }

    fn joins(&mut self, tables: &str) {
        self.tables.push_str(tables);
    }

    fn conditions(&self, also: Option<String>) -> String {
        let all: Vec<&str> = also.iter().chain(&self.served).chain(&self.filter).map(String::as_str).collect();
        if all.is_empty() { "TRUE".to_owned() } else { all.join(" AND ") }
    }

    /// The rows that an index finds.
    pub(super) fn range(&self) -> String {
        let served = if self.served.is_empty() { "TRUE".to_owned() } else { self.served.join(" AND ") };
        format!("SELECT 1 FROM {} WHERE {served}", self.tables)
    }

    /// Ids of the contacts.
    fn set(&self, dialect: Dialect) -> String {
        let Past { tables, alias, together, .. } = self;
        let rows = format!("SELECT {alias}.contact_id FROM {tables} WHERE {}", self.conditions(None));
        if together.is_empty() {
            return rows;
        }
        // SQLite would rather read everything in the order of the contacts than sort the little that is asked for: a
        // plus keeps it from that.
        let plus = if dialect == Dialect::Sqlite && !self.served.is_empty() { "+" } else { "" };
        format!("{rows} GROUP BY {plus}{alias}.contact_id HAVING {}", together.join(" AND "))
    }

    /// Whether the contact `c` has such rows, step by step.
    fn step(&self) -> String {
        let Past { tables, alias, together, .. } = self;
        let rows = format!("FROM {tables} WHERE {}", self.conditions(Some(format!("{alias}.contact_id = c.id"))));
        if together.is_empty() {
            format!("EXISTS (SELECT 1 {rows})")
        } else {
            // Without grouping there is a row of no rows, too, whose count is less than anything.
            format!("COALESCE((SELECT COUNT(*) > 0 AND {} {rows}), FALSE)", together.join(" AND "))
        }
    }
}

/// Whether a condition is one on the past, which may be asked as a set.
pub(in crate::segment) fn is_past(leaf: &Leaf) -> bool {
    matches!(leaf, Leaf::Mail { .. } | Leaf::Hit { .. } | Leaf::Did { .. } | Leaf::Ordered { .. })
}

/// Whether what is asked stands in no index by contact.
fn looks_at_rows(leaf: &Leaf) -> bool {
    match leaf {
        Leaf::Did { filter, .. } => filter.is_some(),
        Leaf::Ordered { product, category, .. } => product.is_some() || category.is_some(),
        _ => false,
    }
}

/// Whether a condition on hits is answered by `hit_total`, which outlives the hits themselves: without a time
/// it counts what ever came; with one, the last human hit says whether there is any.
pub(in crate::segment) fn asks_totals(source: &Source, any: bool, at_least: u32) -> bool {
    source.within.is_none() || (at_least <= 1 && !any)
}

impl Compiler<'_> {
    /// A condition on the past, see the head of `compile`. Never NULL.
    pub(super) fn on_the_past(&mut self, leaf: &Leaf, joins: bool) -> String {
        let large = self.large.get(self.asked).copied().unwrap_or(false);
        self.asked += 1;
        let as_set = self.sets
            && match self.dialect {
                // A step would look at each event or order line for what is asked of it: the whole table in another order.
                Dialect::Sqlite => !large || looks_at_rows(leaf),
                Dialect::Postgres => joins,
            };
        let Some(mut past) = self.past(leaf, as_set) else { return "FALSE".to_owned() };
        if as_set {
            let contact = format!("{}.contact_id", past.alias);
            for (millionths, seed) in &self.drawn {
                past.and(format!("{} < {millionths}", random::bucket_sql(&contact, seed)));
            }
        }
        match (as_set, self.dialect) {
            (true, _) => format!("c.id IN ({})", past.set(self.dialect)),
            // PostgreSQL takes the contact into the grouping where that is cheaper; SQLite does not.
            (false, Dialect::Postgres) if !past.together.is_empty() => {
                format!("EXISTS (SELECT 1 FROM ({}) g WHERE g.contact_id = c.id)", past.set(self.dialect))
            }
            (false, _) => past.step(),
        }
    }

    /// The rows that a condition counts; `as_set`: for all contacts at once.
    pub(super) fn past(&mut self, leaf: &Leaf, as_set: bool) -> Option<Past> {
        match leaf {
            Leaf::Mail { what, source, at_least } => Some(self.mails(*what, source, *at_least, as_set)),
            Leaf::Hit { kind, source, link, any, at_least } => {
                let totals = asks_totals(source, *any, *at_least);
                let mut past = if totals {
                    self.totals(*kind, source, link.is_some(), *any, *at_least, as_set)
                } else {
                    self.hits(*kind, source, *any, *at_least)
                };
                self.of_run(source, &mut past, as_set);
                if let Some(link) = link {
                    past.joins(" JOIN run_link l ON l.run_id = h.run_id AND l.position = h.link");
                    let link = self.bind(link);
                    past.by(format!("l.url = {link}"));
                }
                Some(past)
            }
            Leaf::Did { event, filter, within, at_least } => Some(self.did(event, filter.as_deref(), *within, *at_least)),
            Leaf::Ordered { within, product, category, at_least, together } => {
                Some(self.ordered(*within, product.as_deref(), category.as_deref(), *at_least, together, as_set))
            }
            _ => None,
        }
    }

    fn mails(&mut self, what: Mailed, source: &Source, at_least: u32, as_set: bool) -> Past {
        let mut past = Past::new("delivery d", "d");
        // In the words of the partial indexes.
        past.by(match what {
            Mailed::Sent | Mailed::Delivered => "d.state = 'sent' AND d.transactional = FALSE",
            Mailed::Bounced => "d.state = 'bounced' AND d.transactional = FALSE",
        });
        if let Some(within) = source.within {
            let since = self.bind(ago(self.now, within));
            past.by(format!("d.changed_at >= {since}"));
        }
        self.of_run(source, &mut past, as_set);
        if at_least > 1 {
            past.together(format!("COUNT(*) >= {at_least}"));
        }
        past
    }

    fn totals(&mut self, kind: HitKind, source: &Source, by_link: bool, any: bool, at_least: u32, as_set: bool) -> Past {
        let mut past = Past::new("hit_total h", "h");
        match (kind, by_link) {
            (HitKind::Open, _) => past.by("h.link = -1"),
            (HitKind::Click, false) => past.by("h.link = -2"),
            (HitKind::Click, true) => past.by("h.link >= 0"),
        }
        let counted = if any { "(h.human + h.machine + h.unknowable)" } else { "h.human" };
        if let Some(within) = source.within {
            let since = self.bind(ago(self.now, within));
            past.by(format!("h.last_at >= {since}"));
        } else if !any {
            // The way in are the runs where they are named, else the time.
            let by_runs = self.dialect == Dialect::Sqlite && as_set && (source.campaign.is_some() || source.topic.is_some() || by_link);
            past.by(if by_runs { "+h.last_at IS NOT NULL" } else { "h.last_at IS NOT NULL" });
        }
        if at_least > 1 {
            past.together(format!("SUM{} >= {at_least}", if any { counted.to_owned() } else { format!("({counted})") }));
        } else if any {
            past.and(format!("{counted} > 0"));
        }
        past
    }

    fn hits(&mut self, kind: HitKind, source: &Source, any: bool, at_least: u32) -> Past {
        let mut past = Past::new("hit h", "h");
        past.by(format!("h.kind = '{}'", kind.as_str()));
        // All that there are: the index goes by verdict before it goes by time.
        past.by(if any { "h.verdict IN ('human', 'machine', 'unknowable')" } else { "h.verdict = 'human'" });
        if let Some(within) = source.within {
            let since = self.bind(ago(self.now, within));
            past.by(format!("h.at >= {since}"));
        }
        if at_least > 1 {
            // Older hits may have been put together.
            past.together(format!("SUM(h.times) >= {at_least}"));
        }
        past
    }

    fn of_run(&mut self, source: &Source, past: &mut Past, as_set: bool) {
        let mut runs = Vec::new();
        if let Some(campaign) = &source.campaign {
            runs.push(format!("r.campaign = {}", self.bind(campaign)));
        }
        if let Some(topic) = &source.topic {
            runs.push(format!("r.topic_id = (SELECT t.id FROM topic t WHERE t.name = {})", self.bind(topic)));
        }
        if runs.is_empty() {
            return;
        }
        // SQLite must not go through all runs for each contact, nor through all their rows where few are recent:
        // a plus keeps it from an index.
        let plus = if self.dialect == Dialect::Sqlite && (!as_set || source.within.is_some()) { "+" } else { "" };
        let condition = format!("{plus}{}.run_id IN (SELECT r.id FROM run r WHERE {})", past.alias, runs.join(" AND "));
        // Without a time the runs are the way in.
        past.by(condition);
    }
}
