//! What the language has, in one table: the checker reads calls by it, hints take their examples from it,
//! editors get it for completion (`optin segment schema`).

use super::Catalog;
use super::ast::quote;
use super::rule::{Engagement, HitKind, Mailed};
use crate::behaviour::stage::Stage;
use crate::config::AttributeType;
use crate::consent::Standing;

/// A call of the language.
#[derive(Debug)]
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// What it asks.
    pub call: Call,
    /// What stands first, without a name.
    pub first: Option<Parameter>,
    /// What is given by name: `within: 30d`.
    pub named: &'static [Parameter],
    /// What is compared: `sum >= 100`.
    pub compared: &'static [Parameter],
    /// One that parses.
    pub example: &'static str,
    /// For people.
    pub summary: &'static str,
}

/// What a call asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Another segment.
    Segment,
    /// A standing with a topic.
    Standing(Standing),
    /// Mails by what became of them.
    Mail(Mailed),
    /// Opens or clicks.
    Hit(HitKind),
    /// Events.
    Did,
    /// Orders.
    Ordered,
    /// Responses to a topic.
    Engagement,
    /// A frozen list.
    Frozen,
    /// A draw.
    Random,
}

/// What a call takes.
#[derive(Debug)]
pub struct Parameter {
    /// Its name; of what stands first, what it is.
    pub name: &'static str,
    /// What fits.
    pub kind: Kind,
    /// An example of the value; of what is compared, with its operator.
    pub example: &'static str,
    /// For people.
    pub summary: &'static str,
}

/// What fits as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The name of a segment.
    Segment,
    /// The key of a topic.
    Topic,
    /// The name of a campaign.
    Campaign,
    /// A kind of event.
    Event,
    /// Any text.
    Text,
    /// A length of time, back from now.
    Duration,
    /// From 1 up.
    Times,
    /// Yes or no.
    Boolean,
    /// A share of all people.
    Share,
    /// Conditions on properties of an event.
    Filter,
    /// A number of orders.
    Count,
    /// Units of the instance's currency, with at most four decimals.
    Amount,
    /// A day of the calendar.
    Date,
    /// What [`Engagement`] holds.
    Response(Engagement),
}

impl Kind {
    /// In words of the reference.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Segment => "segment",
            Kind::Topic => "topic",
            Kind::Campaign => "campaign",
            Kind::Event => "event",
            Kind::Text | Kind::Response(Engagement::Stage) => "text",
            Kind::Duration => "duration",
            Kind::Times | Kind::Count => "count",
            Kind::Boolean => "boolean",
            Kind::Share => "share",
            Kind::Filter => "condition",
            Kind::Amount => "amount",
            Kind::Date | Kind::Response(Engagement::LastOpen | Engagement::LastClick) => "date",
            Kind::Response(Engagement::Score | Engagement::BestHour | Engagement::BestWeekday) => "number",
        }
    }
}

const fn parameter(name: &'static str, kind: Kind, example: &'static str, summary: &'static str) -> Parameter {
    Parameter { name, kind, example, summary }
}

const TOPIC: Parameter = parameter("topic", Kind::Topic, "'newsletter'", "A topic of `topics.toml`");
const WITHIN: Parameter = parameter("within", Kind::Duration, "30d", "Not longer ago than this");
const AT_LEAST: Parameter = parameter("at_least", Kind::Times, "2", "At least so many; 1 where it is left out");
const OF_CAMPAIGN: Parameter = parameter("campaign", Kind::Campaign, "'weekly'", "Of this campaign");
const ON_TOPIC: Parameter = parameter("topic", Kind::Topic, "'newsletter'", "On this topic");
const LINK: Parameter = parameter("link", Kind::Text, "'https://shop.example/sale'", "The address as written in the mail");
const ANY: Parameter = parameter("any", Kind::Boolean, "true", "Count machines too");
const SINCE: &[Parameter] = &[parameter("since", Kind::Date, "since < today - 1y", "The day (UTC) on which it began")];
const OF_MAILS: &[Parameter] = &[OF_CAMPAIGN, ON_TOPIC, WITHIN, AT_LEAST];

const fn standing(standing: Standing, name: &'static str, example: &'static str, summary: &'static str) -> Function {
    Function { name, call: Call::Standing(standing), first: Some(TOPIC), named: &[WITHIN], compared: SINCE, example, summary }
}

const fn mails(what: Mailed, name: &'static str, example: &'static str, summary: &'static str) -> Function {
    Function { name, call: Call::Mail(what), first: None, named: OF_MAILS, compared: &[], example, summary }
}

/// Every call there is.
pub const FUNCTIONS: &[Function] = &[
    Function {
        name: "segment",
        call: Call::Segment,
        first: Some(parameter("segment", Kind::Segment, "'regulars'", "A segment of `segments.toml`")),
        named: &[],
        compared: &[],
        example: "segment('regulars')",
        summary: "Whom another segment picks",
    },
    standing(Standing::Subscribed, "subscribed", "subscribed('newsletter')", "Is subscribed to a topic (not pending, not paused)"),
    standing(Standing::Pending, "pending", "pending('newsletter', within: 7d)", "Asked for a topic and has not confirmed"),
    standing(Standing::Paused, "paused", "paused('newsletter')", "Wants no mail on a topic for a while"),
    standing(Standing::Unsubscribed, "unsubscribed", "unsubscribed('newsletter', within: 30d)", "Left a topic"),
    mails(Mailed::Sent, "sent", "sent(within: 7d)", "Mails that left for them and did not come back"),
    mails(Mailed::Delivered, "delivered", "delivered(campaign: 'weekly')", "The same as `sent`: a mail that comes back is bounced"),
    mails(Mailed::Bounced, "bounced", "bounced(within: 30d)", "Mails that were refused for good"),
    Function {
        name: "opened",
        call: Call::Hit(HitKind::Open),
        first: None,
        named: &[OF_CAMPAIGN, ON_TOPIC, WITHIN, AT_LEAST, ANY],
        compared: &[],
        example: "opened(within: 30d)",
        summary: "Looked at mails; machines do not count",
    },
    Function {
        name: "clicked",
        call: Call::Hit(HitKind::Click),
        first: None,
        named: &[OF_CAMPAIGN, ON_TOPIC, LINK, WITHIN, AT_LEAST, ANY],
        compared: &[],
        example: "clicked(within: 30d)",
        summary: "Followed links of mails; machines do not count",
    },
    Function {
        name: "did",
        call: Call::Did,
        first: Some(parameter("event", Kind::Event, "'visit'", "A kind of event of `events.toml`")),
        named: &[parameter("where", Kind::Filter, "page = '/oolong'", "What its properties must be"), WITHIN, AT_LEAST],
        compared: &[],
        example: "did('visit', within: 14d, where: page = '/oolong')",
        summary: "Events of a kind, and what their properties were",
    },
    Function {
        name: "ordered",
        call: Call::Ordered,
        first: None,
        named: &[
            WITHIN,
            AT_LEAST,
            parameter("product", Kind::Text, "'oolong-50g'", "Only this product: its id or its name"),
            parameter("category", Kind::Text, "'oolong'", "Only this category"),
        ],
        compared: &[
            parameter("count", Kind::Count, "count >= 2", "How many orders"),
            parameter("sum", Kind::Amount, "sum >= 100", "What they come to, in units of `[behaviour] currency`"),
            parameter("average", Kind::Amount, "average > 20", "What one comes to on average"),
            parameter("first", Kind::Date, "first < '2026-01-01'", "The day (UTC) of the first one"),
            parameter("last", Kind::Date, "last >= today - 30d", "The day (UTC) of the last one"),
        ],
        example: "ordered(within: 90d, sum >= 100)",
        summary: "Orders, less what was refunded",
    },
    Function {
        name: "engagement",
        call: Call::Engagement,
        first: Some(TOPIC),
        named: &[],
        compared: &[
            response("stage", Engagement::Stage, "stage = 'cooling'"),
            response("score", Engagement::Score, "score >= 2"),
            response("best_hour", Engagement::BestHour, "best_hour = 9"),
            response("best_weekday", Engagement::BestWeekday, "best_weekday <= 5"),
            response("last_open", Engagement::LastOpen, "last_open < today - 30d"),
            response("last_click", Engagement::LastClick, "last_click >= today - 30d"),
        ],
        example: "engagement('newsletter', stage = 'cooling')",
        summary: "How they respond to one topic; `engagement.stage` and so on ask about all of them",
    },
    Function {
        name: "frozen",
        call: Call::Frozen,
        first: Some(parameter("list", Kind::Text, "'spring-2026'", "A list made by `optin segment freeze`")),
        named: &[],
        compared: &[],
        example: "frozen('spring-2026')",
        summary: "Is in a list that was frozen",
    },
    Function {
        name: "random",
        call: Call::Random,
        first: Some(parameter("share", Kind::Share, "10%", "Of all people, with at most four decimals")),
        named: &[parameter("seed", Kind::Text, "'spring'", "Names the draw: another seed picks others")],
        compared: &[],
        example: "random(10%)",
        summary: "The same people each time, by chance",
    },
];

const fn response(name: &'static str, what: Engagement, example: &'static str) -> Parameter {
    parameter(name, Kind::Response(what), example, summary(what))
}

const fn summary(what: Engagement) -> &'static str {
    match what {
        Engagement::Stage => "`active`, `cooling` or `dormant`, by the days of `[engagement]` since the last sign of life",
        Engagement::Score => "How much they respond: 1 an open, 3 a click, half after each half-life; compared with `<` `<=` `>` `>=`",
        Engagement::BestHour => "The hour (0 to 23, in their time zone) at which they respond most",
        Engagement::BestWeekday => "The day of the week (1 Monday to 7 Sunday) on which they respond most",
        Engagement::LastOpen => "The day (UTC) of their last open",
        Engagement::LastClick => "The day (UTC) of their last click",
    }
}

/// An example with names that are declared here, where its own are not.
pub fn with_names(example: &str, catalog: &Catalog) -> String {
    let mut text = example.to_owned();
    let mut put = |written: &str, known: bool, first: Option<&String>| {
        if let Some(first) = first.filter(|_| !known) {
            text = text.replace(&quote(written), &quote(first));
        }
    };
    put("newsletter", catalog.topics.contains("newsletter"), catalog.topics.first());
    put("weekly", catalog.campaigns.contains("weekly"), catalog.campaigns.first());
    put("regulars", catalog.segments.contains_key("regulars"), catalog.segments.keys().next());
    let visit = catalog.events.get("visit").is_some_and(|event| event.properties.contains_key("page"));
    match catalog.events.keys().next().filter(|_| !visit && example.starts_with("did(")) {
        Some(event) => format!("did({}, within: 14d)", quote(event)),
        None => text,
    }
}

/// The call of that name.
pub fn function(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

impl Function {
    /// What is given by this name.
    pub fn named(&self, name: &str) -> Option<&'static Parameter> {
        self.named.iter().find(|parameter| parameter.name == name)
    }

    /// What is compared under this name.
    pub fn compared(&self, name: &str) -> Option<&'static Parameter> {
        self.compared.iter().find(|parameter| parameter.name == name)
    }
}

/// What is asked by `engagement.NAME`, or by that name between the parentheses of `engagement(..)`.
pub fn engagement(name: &str) -> Option<Engagement> {
    let parameter = function("engagement").and_then(|function| function.compared(name))?;
    if let Kind::Response(what) = parameter.kind { Some(what) } else { None }
}

/// Names behind `engagement.`, with what they are.
pub fn responses() -> impl Iterator<Item = &'static Parameter> {
    function("engagement").into_iter().flat_map(|function| function.compared)
}

/// A computed property of a person: a column of `score`, with `_` where its name has a dot.
#[derive(Debug)]
pub struct Score {
    /// As written in rules.
    pub name: &'static str,
    /// Number or text.
    pub kind: AttributeType,
    /// One condition with it.
    pub example: &'static str,
    /// For people.
    pub summary: &'static str,
}

const fn score(name: &'static str, kind: AttributeType, example: &'static str, summary: &'static str) -> Score {
    Score { name, kind, example, summary }
}

/// Every score there is. Nobody has a value before it was computed.
pub const SCORES: &[Score] = &[
    score("rfm.recency", AttributeType::Number, "rfm.recency >= 4", "How lately they ordered, 1 to 5 (5: most lately)"),
    score("rfm.frequency", AttributeType::Number, "rfm.frequency >= 4", "How often they order, 1 to 5"),
    score("rfm.monetary", AttributeType::Number, "rfm.monetary = 5", "How much they spend, 1 to 5"),
    score("rfm.latency", AttributeType::Number, "rfm.latency <= 2", "How short the time between their orders is, 1 to 5"),
    score("value.historic", AttributeType::Number, "value.historic >= 1000", "What they spent so far, in units of `[behaviour] currency`"),
    score("value.lifetime", AttributeType::Number, "value.lifetime >= 1000", "What they are expected to spend in all"),
    score("value.decile", AttributeType::Number, "value.decile = 10", "In which tenth of all customers that is, 1 to 10 (10: the most)"),
    score("lifecycle", AttributeType::Text, "lifecycle = 'loyal'", "Where they stand as a customer"),
    score("churn.risk", AttributeType::Number, "churn.risk >= 0.5", "How likely they do not come back, 0 to 1"),
];

/// A keyword or sign with its meaning.
#[derive(Debug)]
pub struct Word {
    /// As written.
    pub text: &'static str,
    /// One use of it.
    pub example: &'static str,
    /// For people.
    pub summary: &'static str,
}

const fn word(text: &'static str, example: &'static str, summary: &'static str) -> Word {
    Word { text, example, summary }
}

/// Words with a meaning of their own, also those that are so in one place only.
pub const KEYWORDS: &[Word] = &[
    word("and", "vip and city = 'Taipei'", "Both hold; binds tighter than `or`"),
    word("or", "vip or points >= 500", "One of them holds at least"),
    word("not", "not vip", "The opposite; binds tightest"),
    word("in", "city in ('Taipei', 'Tainan')", "One of several values"),
    word("not in", "city not in ('Taipei')", "None of several values"),
    word("contains", "interests contains 'oolong'", "A list has this value, or a text this part"),
    word("is set", "birthday is set", "There is a value"),
    word("is not set", "birthday is not set", "There is no value"),
    word("is today", "birthday is today", "The day, or an anniversary of it, is today"),
    word("in next", "birthday in next 7 days", "The day, or an anniversary of it, is today or soon"),
    word("in last", "birthday in last 7 days", "The day, or an anniversary of it, is today or was lately"),
    word("region", "country in region('EU')", "The countries of a region, for attributes that hold two letters of ISO 3166"),
    word("today", "birthday < today - 18y", "The calendar day of now (UTC), also moved: `today + 2w`"),
    word("true", "vip = true", "Yes"),
    word("false", "vip = false", "No: known not to be so"),
];

/// Units of durations.
pub const UNITS: &[Word] = &[
    word("h", "12h", "60 minutes"),
    word("d", "30d", "24 hours; one calendar day where days are compared"),
    word("w", "2w", "7 days"),
    word("mo", "6mo", "A calendar month; a day that a month does not have is its last one"),
    word("y", "1y", "A calendar year; 29 February of other years is the 28th"),
];

/// Operators that a field of this type takes.
pub fn operators(kind: AttributeType) -> &'static [&'static str] {
    match kind {
        AttributeType::Text => &["=", "!=", "in", "not in", "contains", "<", "<=", ">", ">=", "is set", "is not set"],
        AttributeType::Number => &["=", "!=", "<", "<=", ">", ">=", "in", "not in", "is set", "is not set"],
        AttributeType::Boolean => &["", "not", "=", "!=", "is set", "is not set"],
        AttributeType::Date => &["=", "!=", "<", "<=", ">", ">=", "in next", "in last", "is today", "in", "not in", "is set", "is not set"],
        AttributeType::List => &["contains", "is set", "is not set"],
    }
}

/// Operators between an answer of engagement and a value.
pub fn response_operators(what: Engagement) -> &'static [&'static str] {
    match what {
        Engagement::Stage => &["=", "!=", "in", "not in", "is set", "is not set"],
        Engagement::Score => &["<", "<=", ">", ">=", "is set", "is not set"],
        Engagement::BestHour | Engagement::BestWeekday | Engagement::LastOpen | Engagement::LastClick => {
            &["=", "!=", "<", "<=", ">", ">=", "in", "not in", "is set", "is not set"]
        }
    }
}

/// Stages of engagement.
pub const STAGES: &[&str] = &Stage::NAMES;
