//! Subscriptions, lists, and how somebody responds.

use super::{Compiler, ago};
use crate::behaviour::decay;
use crate::behaviour::stage::Stage;
use crate::config::EngagementSettings;
use crate::consent::Standing;
use crate::db::Dialect;
use crate::segment::ast::{Op, Period};
use crate::segment::rule::{Engagement, Moment, Value};

/// Which of [`Stage::NAMES`] compare so with a text.
pub(in crate::segment) fn stages_that(op: Op, value: &Value) -> [bool; 3] {
    let Value::Text(wanted) = value else { return [false; 3] };
    Stage::NAMES.map(|stage| op.holds(stage.cmp(wanted.as_str())))
}

impl Compiler<'_> {
    fn topic(&mut self, topic: &str) -> String {
        format!("(SELECT t.id FROM topic t WHERE t.name = {})", self.bind(topic))
    }

    pub(super) fn subscribed(&mut self, topic: &str) -> String {
        self.standing(topic, Standing::Subscribed, &[], None)
    }

    pub(super) fn standing(&mut self, topic: &str, standing: Standing, since: &[(Op, Moment)], within: Option<Period>) -> String {
        let mut conditions = vec![
            format!("s.topic_id = {}", self.topic(topic)),
            "s.contact_id = c.id".to_owned(),
            format!("s.standing = '{}'", standing.as_str()),
        ];
        for (op, moment) in since {
            conditions.push(self.on_day("s.since", *op, *moment));
        }
        if let Some(within) = within {
            let since = self.bind(ago(self.now, within));
            conditions.push(format!("s.since >= {since}"));
        }
        format!("EXISTS (SELECT 1 FROM subscription s WHERE {})", conditions.join(" AND "))
    }

    pub(super) fn frozen(&mut self, list: &str) -> String {
        let list = self.bind(list);
        format!(
            "EXISTS (SELECT 1 FROM frozen_member f \
             WHERE f.list_id = (SELECT l.id FROM frozen_list l WHERE l.name = {list}) AND f.contact_id = c.id)"
        )
    }

    pub(super) fn engagement(
        &mut self,
        topic: Option<&str>,
        what: Engagement,
        op: Op,
        value: &Value,
        settings: &EngagementSettings,
        alone: bool,
    ) -> String {
        let symbol = if op == Op::NotEqual { "<>" } else { op.symbol() };
        let condition = match (what, value) {
            (Engagement::Stage, _) => return self.stage(topic, stages_that(op, value), settings, alone),
            (Engagement::Score, Value::Number(score)) => {
                format!("g.weight {symbol} {}", self.bind(decay::weight_of(*score, settings.half_life_days, self.now)))
            }
            (Engagement::BestHour, Value::Number(number)) => format!("g.best_hour {symbol} {}", self.bind(*number)),
            (Engagement::BestWeekday, Value::Number(number)) => format!("g.best_weekday {symbol} {}", self.bind(*number)),
            (Engagement::LastOpen, Value::Date(moment)) => self.on_day("g.last_open_at", op, *moment),
            (Engagement::LastClick, Value::Date(moment)) => self.on_day("g.last_click_at", op, *moment),
            _ => return "FALSE".to_owned(),
        };
        let of_topic = topic.map_or_else(|| "0".to_owned(), |topic| self.topic(topic));
        format!("EXISTS (SELECT 1 FROM engagement g WHERE g.topic_id = {of_topic} AND g.contact_id = c.id AND {condition})")
    }

    /// One step to each table a person: the last sign of life, then the range that it must be in. PostgreSQL, where it
    /// may join (`alone`), adds the signs of all people up: a million steps each take it seconds.
    fn stage(&mut self, topic: Option<&str>, wanted: [bool; 3], settings: &EngagementSettings, alone: bool) -> String {
        let ranges = self.stage_ranges(wanted, settings);
        if ranges.is_empty() {
            return "FALSE".to_owned();
        }
        let of_topic = topic.map_or_else(|| "0".to_owned(), |topic| self.topic(topic));
        let begun = match topic {
            Some(_) => format!("s.topic_id = {of_topic} AND s.standing = 'subscribed'"),
            None => "s.standing = 'subscribed'".to_owned(),
        };
        let orders = topic.is_none();
        if alone && self.sets && self.dialect == Dialect::Postgres {
            let orders = if orders { " UNION ALL SELECT o.contact_id, o.last_at, NULL FROM order_total o WHERE o.orders > 0" } else { "" };
            let condition = ranges.replace("{sign}", "COALESCE(MAX(v.at), MAX(v.since))");
            return format!(
                "EXISTS (SELECT 1 FROM (SELECT v.contact_id FROM (\
                 SELECT g.contact_id, GREATEST(g.last_open_at, g.last_click_at) AS at, CAST(NULL AS BIGINT) AS since \
                 FROM engagement g WHERE g.topic_id = {of_topic}{orders} \
                 UNION ALL SELECT s.contact_id, NULL, s.since FROM subscription s WHERE {begun}) v \
                 GROUP BY v.contact_id HAVING {condition}) p WHERE p.contact_id = c.id)"
            );
        }
        let latest = match self.dialect {
            Dialect::Sqlite => "max",
            Dialect::Postgres => "GREATEST",
        };
        // Times are past 1970: 0 stands for none.
        let hits = format!(
            "COALESCE((SELECT {latest}(COALESCE(g.last_open_at, 0), COALESCE(g.last_click_at, 0)) \
             FROM engagement g WHERE g.topic_id = {of_topic} AND g.contact_id = c.id), 0)"
        );
        let last = if orders {
            format!("{latest}({hits}, COALESCE((SELECT o.last_at FROM order_total o WHERE o.contact_id = c.id AND o.orders > 0), 0))")
        } else {
            hits
        };
        let begun = format!("(SELECT s.since FROM subscription s WHERE {begun} AND s.contact_id = c.id ORDER BY s.since DESC LIMIT 1)");
        let condition = ranges.replace("{sign}", &format!("COALESCE(NULLIF({last}, 0), {begun})"));
        format!("COALESCE({condition}, FALSE)")
    }

    /// The condition on `{sign}`, which stands in it once.
    fn stage_ranges(&mut self, wanted: [bool; 3], settings: &EngagementSettings) -> String {
        let (cools, sleeps) = Stage::limits(self.now, settings);
        match wanted {
            [false, false, false] => String::new(),
            [true, false, false] => format!("{{sign}} > {}", self.bind(cools)),
            [true, true, false] => format!("{{sign}} > {}", self.bind(sleeps)),
            [false, true, false] => format!("{{sign}} BETWEEN {} AND {}", self.bind(sleeps.plus(1)), self.bind(cools)),
            [false, true, true] => format!("{{sign}} <= {}", self.bind(cools)),
            [false, false, true] => format!("{{sign}} <= {}", self.bind(sleeps)),
            [true, false, true] => format!("{{sign}} NOT BETWEEN {} AND {}", self.bind(sleeps.plus(1)), self.bind(cools)),
            [true, true, true] => "{sign} IS NOT NULL".to_owned(),
        }
    }
}
