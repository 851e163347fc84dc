//! What is known of somebody about a condition, in words.

use super::{
    Engagement, Held, HitKind, Hits, Leaf, Mailed, On, Person, Standing, Sums, Time, asks_totals, civil, did, hits, mails, ordered, sign,
    stage, totals, value_of,
};
use crate::behaviour::PARTS;
use crate::behaviour::decay;
use crate::contact::AttributeValue;
use crate::segment::ast::Period;
use crate::segment::random::{BUCKETS, bucket};
use crate::segment::rule::Field;

pub(super) fn facts(leaf: &Leaf, person: &Person, now: Time) -> String {
    match leaf {
        Leaf::Compare(field, ..) | Leaf::OneOf(field, _) | Leaf::Contains(field, _) | Leaf::IsSet(field) | Leaf::Recurs { field, .. } => {
            on_field(person, field)
        }
        Leaf::Subscribed(topic) | Leaf::Standing { topic, .. } => match person.standings.get(topic) {
            Some((standing, since)) => format!("{} on {topic} since {}", word(*standing), civil(*since)),
            None => format!("never on {topic}"),
        },
        Leaf::Mail { what, source, .. } => {
            let word = match what {
                Mailed::Sent => "sent",
                Mailed::Delivered => "delivered",
                Mailed::Bounced => "bounced",
            };
            let found: Vec<Time> = mails(person, *what, source, now).map(|mail| mail.at).collect();
            let ever = person.mails.iter().filter(|mail| mail.bounced == (*what == Mailed::Bounced)).map(|mail| mail.at);
            counted(&format!("mail {word}"), found.len() as i64, found.into_iter().max(), ever.max(), source.within)
        }
        Leaf::Hit { kind, source, link, any, at_least } => {
            let wanted = Hits { kind: *kind, source, link: link.as_deref(), any: *any };
            on_hits(person, &wanted, asks_totals(source, *any, *at_least), now)
        }
        Leaf::Did { event, filter, within, .. } => {
            let found: Vec<Time> = did(person, &event.name, filter.as_deref(), *within, now).map(|event| event.at).collect();
            let ever = person.events.get(&event.name).into_iter().flatten().map(|event| event.at);
            let what = if filter.is_some() { format!("such {}", event.name) } else { event.name.clone() };
            counted(&what, found.len() as i64, found.into_iter().max(), ever.max(), *within)
        }
        Leaf::Ordered { within, product, category, .. } => {
            match ordered(person, *within, product.as_deref(), category.as_deref(), now).filter(|sums| sums.count > 0) {
                Some(sums) => on_orders(&sums, *within),
                None => match &person.order_total {
                    Some(total) if total.orders > 0 => format!("no such order; last order {}", civil(total.last_at)),
                    _ => "no order".to_owned(),
                },
            }
        }
        Leaf::Engagement { topic, what, settings, .. } => {
            let fact = person.engagement.get(topic);
            match what {
                Engagement::Stage => match (stage(person, topic.as_deref(), settings, now), sign(person, topic.as_deref())) {
                    (Some(stage), Some(at)) => format!("stage is {stage}, last sign of life {}", civil(at)),
                    _ => "no stage: no sign of life yet".to_owned(),
                },
                // The score as it is now: what one point is worth in stored weight.
                Engagement::Score => fact.map_or_else(
                    || "no score: never responded".to_owned(),
                    |fact| format!("score is {:.3}", decay::score(fact.weight, settings.half_life_days, now)),
                ),
                Engagement::BestHour => fact
                    .and_then(|fact| fact.best_hour)
                    .map_or_else(|| "no best hour is known".to_owned(), |hour| format!("best hour is {hour}")),
                Engagement::BestWeekday => fact
                    .and_then(|fact| fact.best_weekday)
                    .map_or_else(|| "no best weekday is known".to_owned(), |day| format!("best weekday is {day}")),
                Engagement::LastOpen => last("human open", fact.and_then(|fact| fact.last_open_at)),
                Engagement::LastClick => last("human click", fact.and_then(|fact| fact.last_click_at)),
            }
        }
        Leaf::Frozen(list) => format!("{} the list {list}", if person.frozen.contains(list) { "in" } else { "not in" }),
        Leaf::Random { seed, .. } => format!("drew {:.4}%", bucket(person.contact.id, seed) as f64 * 100.0 / BUCKETS as f64),
    }
}

fn on_field(person: &Person, field: &Field) -> String {
    let name = &field.name;
    match value_of(On::Person(person), field) {
        None => format!("{name} is not set"),
        Some(Held::Text("")) => format!("{name} is not set"),
        Some(Held::Text(text)) => format!("{name} is '{text}'"),
        Some(Held::Other(AttributeValue::Text(text))) => format!("{name} is '{text}'"),
        Some(Held::Other(AttributeValue::Number(number))) => format!("{name} is {number}"),
        Some(Held::Other(AttributeValue::Boolean(flag))) => format!("{name} is {flag}"),
        Some(Held::Other(AttributeValue::Date(date))) => format!("{name} is {date}"),
        Some(Held::Other(AttributeValue::List(values))) if values.is_empty() => format!("{name} is not set"),
        Some(Held::Other(AttributeValue::List(values))) => {
            let values: Vec<String> = values.iter().map(|value| format!("'{value}'")).collect();
            format!("{name} has {}", values.join(", "))
        }
    }
}

fn on_hits(person: &Person, wanted: &Hits<'_>, by_totals: bool, now: Time) -> String {
    let what = match (wanted.kind, wanted.any) {
        (HitKind::Open, false) => "human open",
        (HitKind::Open, true) => "open",
        (HitKind::Click, false) => "human click",
        (HitKind::Click, true) => "click",
    };
    let within = wanted.source.within;
    let ever = totals(person, wanted).filter_map(|total| total.last_at).max();
    let found: Vec<_> = hits(person, wanted, now).collect();
    let count: i64 = found.iter().map(|hit| hit.times).sum();
    // Hits that are not kept any more are in the totals.
    if by_totals && within.is_none() {
        let count = totals(person, wanted).map(|total| if wanted.any { total.any } else { total.human }).sum();
        return counted(what, count, ever, ever, None);
    }
    let shown = if by_totals && count == 0 { i64::from(ever.is_some_and(|at| super::recent(within, at, now))) } else { count };
    counted(what, shown, found.iter().map(|hit| hit.at).max().max(ever), ever, within)
}

fn on_orders(sums: &Sums, within: Option<Period>) -> String {
    let orders = if sums.count == 1 { "1 order".to_owned() } else { format!("{} orders", sums.count) };
    let units = sums.amount as f64 / PARTS as f64;
    format!("{orders}{} for {units}, first {}, last {}", limit(within), civil(sums.first), civil(sums.last))
}

/// `last human click 2026-10-02, 3 within 90 days`
fn counted(what: &str, count: i64, last_one: Option<Time>, ever: Option<Time>, within: Option<Period>) -> String {
    match (last_one.or(ever), count) {
        (None, 0) => format!("no {what}"),
        (None, _) => format!("{count} {what}{}", limit(within)),
        (Some(at), _) if within.is_none() => format!("last {what} {}, {count} in all", civil(at)),
        (Some(at), _) => format!("last {what} {}, {count}{}", civil(at), limit(within)),
    }
}

fn limit(within: Option<Period>) -> String {
    within.map_or_else(String::new, |period| format!(" within {period}"))
}

fn last(what: &str, at: Option<Time>) -> String {
    at.map_or_else(|| format!("no {what}"), |at| format!("last {what} {}", civil(at)))
}

fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::None => "nothing",
        other => other.as_str(),
    }
}
