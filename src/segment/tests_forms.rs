//! Tests of what rules ask beside attributes: days around today, regions, standings, mails, events, orders,
//! engagement, scores.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::check::HISTORY_SIZE;
use super::tests::catalog;
use super::*;
use crate::config::AttributeType;
use crate::consent::Standing;
use crate::contact::Date;

fn event(name: &str, properties: &[(&str, AttributeType)]) -> (String, EventSchema) {
    let properties: BTreeMap<String, AttributeType> = properties.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
    (name.to_owned(), EventSchema { name: name.to_owned(), properties })
}

pub(super) fn shop() -> Catalog {
    use AttributeType::{Boolean, List, Number, Text};
    let mut catalog = catalog();
    let attributes =
        [("country", Text), ("city", Text), ("age", Number), ("vip", Boolean), ("birthday", AttributeType::Date), ("interests", List)];
    catalog.schema = Schema::new(&attributes.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect());
    catalog.country = Some("country".to_owned());
    catalog.events = [
        event("visit", &[("page", Text), ("duration", Number), ("booked", AttributeType::Date), ("member", Boolean), ("tags", List)]),
        event("tasting", &[("tea", Text), ("guests", Number)]),
    ]
    .into();
    catalog
}

fn understood(source: &str) -> Rule {
    rule(source, &shop()).unwrap_or_else(|errors| panic!("{}", problems("rule", source, &errors).render(false)))
}

fn leaf(source: &str) -> Leaf {
    match understood(source).root {
        Node::Leaf { leaf, negated: false, text, .. } => {
            assert_eq!(text, parse(source).expect("it reads").to_string());
            leaf
        }
        other => panic!("`{source}` is {other:?}"),
    }
}

/// The first thing that a hint says to write; `None` where it only sketches one.
fn suggestion(hint: &str) -> Option<&str> {
    let at = ["write `", "did you mean `"].iter().find_map(|words| hint.find(words).map(|at| at + words.len()))?;
    hint[at..].split('`').next().filter(|text| !text.contains(".."))
}

fn refused(source: &str) -> String {
    let catalog = shop();
    let Err(errors) = rule(source, &catalog) else { panic!("`{source}` was understood") };
    for error in &errors {
        assert!(source.get(error.span.clone()).is_some(), "`{source}`: {error:?} lies outside");
        assert!(!error.hint.is_empty() && !error.message.ends_with('.'), "`{source}`: {error}");
        let Some(written) = suggestion(&error.hint) else { continue };
        let replaced = format!("{}{written}{}", &source[..error.span.start], &source[error.span.end..]);
        // A condition, an argument, a value, a name between quotes, or what stands where the mistake was.
        let named = written.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_');
        let reads = [
            written.to_owned(),
            format!("did('visit', {written})"),
            format!("did('visit', {written} 3)"),
            format!("city = {written}"),
            if named { format!("segment('{written}')") } else { replaced },
        ];
        assert!(reads.iter().any(|text| parse(text).is_ok()), "`{source}`: what is suggested does not read: {error}");
    }
    problems("rule", source, &errors).render(false).trim_end().to_owned()
}

#[test]
fn mistakes_in_questions_to_the_past_are_shown_with_the_next_step() {
    let mut shown = String::new();
    for source in [
        "city in next 7 days",
        "age in next 7 days",
        "birthday in the next 7 days",
        "birthday in next week",
        "birthday in next 2 months",
        "birthday in next 7",
        "birthday in next",
        "birthday in next 0 days",
        "birthday in last 400 days",
        "birthday in next 2.5 days",
        "birthday in next 36h",
        "birthday in next 7days",
        "birthday in 7 days",
        "birthday in 7d",
        "birthday in coming 7 days",
        "birthday next 7 days",
        "birthday within 7 days",
        "birthday is tomorrow",
        "birthday is in next 7 days",
        "vip is today",
        "country in region('UE')",
        "country in region('Mars')",
        "country = region('EU')",
        "country != region('EU')",
        "country in region('EU', 'EFTA')",
        "country in region(EU)",
        "country in region()",
        "age in region('EU')",
        "interests in region('EU')",
        "region('EU')",
        "country contains region('EU')",
        "subscribed()",
        "subscribed('tea-leter', within: 30d)",
        "subscribed('tea-letter', 'shop')",
        "subscribed('tea-letter', 30d)",
        "subscribed('tea-letter', since: 30d)",
        "subscribed('tea-letter', since: '2026-01-01')",
        "subscribed('tea-letter', since < 1y)",
        "subscribed('tea-letter', since < '2026-1-1')",
        "subscribed('tea-letter', at_least: 2)",
        "subscribed('tea-letter', within > 30d)",
        "unsubscribd('tea-letter')",
        "left('tea-letter')",
        "sent(link: 'https://tea.example/')",
        "delivered('weekly')",
        "bounced(with: 30d)",
        "opened(since: 30d)",
        "opened(where: page = 'x')",
        "clicked(url: 'https://tea.example/')",
        "clicked(at_least: '2')",
        "clicked(at_least > 2)",
        "clicked(link: 3)",
        "did()",
        "did(visit)",
        "did('vist')",
        "did(event: 'visit')",
        "did('visit', page = '/oolong')",
        "did('visit', where: pgae = '/oolong')",
        "did('visit', where: city = 'Taipei')",
        "did('visit', where page = '/oolong')",
        "did('visit', where = '/oolong')",
        "did('visit', where: page = '/oolong', within: 30)",
        "did('visit', where: page = 3 or duration = 'long' or member > true)",
        "did('visit', where: opened(within: 3d))",
        "did('visit', where: booked in next 7 days)",
        "did('visit', where: (page = 'x' and duration > 3)",
        "did('visit', where:)",
        "did('visit', where: tags = 'x', where: page = 'x')",
        "did('visit', times: 3)",
        "did('visit', count >= 3)",
        "visited('/oolong')",
        "ordered('p1')",
        "ordered(30d)",
        "ordered(sum: 100)",
        "ordered(sum >= '100 EUR')",
        "ordered(sum >= 1.23456)",
        "ordered(sum >= -5)",
        "ordered(average > 99999999999)",
        "ordered(count = 0)",
        "ordered(count >= 1.5)",
        "ordered(count: 2)",
        "ordered(total >= 100)",
        "ordered(avg > 20)",
        "ordered(last: 30d)",
        "ordered(last > 30d)",
        "ordered(first < '01.02.2026')",
        "ordered(product = 'p1')",
        "ordered(sku: 'p1')",
        "ordered(product: 17)",
        "ordered(product: '')",
        "ordered(sum is set)",
        "orderd(within: 30d)",
        "bought('p1')",
        "engagement.stge = 'dormant'",
        "engagement.stage = 'asleep'",
        "engagement.stage = 'dormnt'",
        "engagement.stage > 'active'",
        "engagement.stage",
        "engagement.stage in ()",
        "engagement.score = 2",
        "engagement.score in (1, 2)",
        "engagement.score >= -1",
        "engagement.score >= 'high'",
        "engagement.best_hour = 24",
        "engagement.best_hour = '09:00'",
        "engagement.best_weekday = 'Tuesday'",
        "engagement.best_weekday = 0",
        "engagement.last_open < 30d",
        "engagement.last_open in next 7 days",
        "engagement.last_click contains 'x'",
        "engagement",
        "engagement('tea-letter')",
        "engagement()",
        "engagement(stage = 'cooling')",
        "engagement('tea-letter', 'cooling')",
        "engagement('tea-letter', stage: 'cooling')",
        "engagement('tea-letter', stage in ('cooling', 'dormant'))",
        "engagement('tea-letter', hour = 9)",
        "rfm.recancy >= 4",
        "rfm.recency >= 'high'",
        "value = 3",
        "contact.city = 'Taipei'",
        "order.sum > 3",
        "lifecicle = 'loyal'",
        "frozen()",
        "frozen('')",
        "frozen(spring)",
        "frozen('a', 'b')",
        "list('spring')",
        "segment('regulars', 'broken')",
        "segment(3)",
        "random(10%, 20%)",
        "random(10%, seed: 3)",
        "random('spring')",
        "vip # the good ones",
    ] {
        shown.push_str(&format!("{source:?}\n{}\n\n", refused(source)));
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn a_suggestion_that_is_followed_is_understood() {
    for (wrong, right) in [
        ("birthday in next 2 months", "birthday in next 60 days"),
        ("birthday in next 36h", "birthday in next 2 days"),
        ("birthday in last 3 years", "birthday in last 366 days"),
        ("birthday in last 400 days", "birthday >= today - 400d and birthday <= today"),
        ("did('visit', page = '/oolong')", "did('visit', where: page = '/oolong')"),
        ("subscribed('tea-letter', within > 30d)", "subscribed('tea-letter', since < today - 30d)"),
        ("engagement('tea-letter', 'cooling')", "engagement('tea-letter', stage = 'cooling')"),
        ("birthday is tomorrow", "birthday in next 2 days and birthday is not today"),
        ("country != region('EU')", "country not in region('EU')"),
        ("age in region('EU')", "country in region('EU')"),
        ("subscribed('tea-letter', since: 30d)", "subscribed('tea-letter', within: 30d)"),
        ("ordered(last: 30d)", "ordered(last >= today - 30d)"),
        ("ordered(count = 0)", "not ordered()"),
        ("ordered(sum >= 1.23456)", "ordered(sum >= 1.2346)"),
        ("clicked(at_least > 2)", "clicked(at_least: 3)"),
        ("engagement.best_weekday = 'Tuesday'", "engagement.best_weekday = 2"),
        ("engagement.best_hour = '09:00'", "engagement.best_hour = 9"),
        ("did('visit', where: booked in next 7 days)", "did('visit', where: booked >= today and booked < today + 7d)"),
    ] {
        let errors = rule(wrong, &shop()).expect_err(wrong);
        let written = suggestion(&errors[0].hint).unwrap_or_else(|| panic!("{wrong}: {}", errors[0]));
        assert!(right.contains(written), "`{wrong}` is told `{written}`");
        understood(right);
    }
}

#[test]
fn days_around_today_count_today() {
    let of = |source: &str| match leaf(source) {
        Leaf::Recurs { field, from, until } if field.column == "d_birthday" || field.name == "birthday" => (from, until),
        other => panic!("{other:?}"),
    };
    assert_eq!(of("birthday is today"), (0, 0));
    assert_eq!(of("birthday in next 1 day"), (0, 0));
    assert_eq!(of("birthday in next 7 days"), (0, 6));
    assert_eq!(of("birthday IN Last 7d"), (-6, 0));
    assert_eq!(of("birthday in next 2 weeks"), (0, 13));
    assert_eq!(of("birthday in next 366 days"), (0, 365));
    for (source, canonical) in [
        ("birthday in next 7d", "birthday in next 7 days"),
        ("birthday IN NEXT 1 DAYS", "birthday in next 1 day"),
        ("birthday in last 2 w", "birthday in last 2 weeks"),
        ("not (birthday is today)", "birthday is not today"),
        ("not birthday in next 3 days", "birthday not in next 3 days"),
        ("country in (region( 'EU' ))", "country in region('EU')"),
        ("country not in (region('EU'), 'CH')", "country not in (region('EU'), 'CH')"),
        ("did('visit', where: (page = 'x' AND duration>3), at_least:2)", "did('visit', where: page = 'x' and duration > 3, at_least: 2)"),
    ] {
        assert_eq!(parse(source).expect(source).to_string(), canonical);
        assert_eq!(parse(canonical).expect(canonical).to_string(), canonical);
    }
}

#[test]
fn words_that_mean_something_in_one_place_are_names_elsewhere() {
    for source in ["next = 'x' and last in (1, 2)", "region is set or the contains 'x'", "days in next 3 days", "region and where"] {
        assert_eq!(parse(source).expect(source).to_string(), source);
    }
}

#[test]
fn a_region_is_its_countries() {
    let Leaf::OneOf(field, values) = leaf("country in (region('Benelux'), 'CH')") else { panic!("a list") };
    assert_eq!(field.name, "country");
    assert_eq!(values, ["BE", "LU", "NL", "CH"].map(|code| Value::Text(code.to_owned())));
}

#[test]
fn standings_mails_and_lists_are_read() {
    let year = Period { amount: -1, unit: Unit::Year };
    let days = |amount| Period { amount, unit: Unit::Day };
    assert_eq!(leaf("subscribed('shop')"), Leaf::Subscribed("shop".to_owned()));
    assert_eq!(
        leaf("subscribed('shop', within: 30d, since < today - 1y, since >= '2020-01-01')"),
        Leaf::Standing {
            topic: "shop".to_owned(),
            standing: Standing::Subscribed,
            since: vec![(Op::Less, Moment::Today(year)), (Op::AtLeast, Moment::Fixed(Date::parse("2020-01-01").expect("a date")))],
            within: Some(days(30)),
        }
    );
    for (source, standing) in
        [("pending('shop')", Standing::Pending), ("paused('shop')", Standing::Paused), ("unsubscribed('shop')", Standing::Unsubscribed)]
    {
        assert_eq!(leaf(source), Leaf::Standing { topic: "shop".to_owned(), standing, since: Vec::new(), within: None });
    }
    let source = Source { campaign: Some("weekly".to_owned()), topic: Some("shop".to_owned()), within: Some(days(7)) };
    for (name, what) in [("sent", Mailed::Sent), ("delivered", Mailed::Delivered), ("bounced", Mailed::Bounced)] {
        let written = format!("{name}(campaign: 'weekly', topic: 'shop', within: 7d, at_least: 3)");
        assert_eq!(leaf(&written), Leaf::Mail { what, source: source.clone(), at_least: 3 });
    }
    assert_eq!(leaf("frozen('spring 2026')"), Leaf::Frozen("spring 2026".to_owned()));
    assert_eq!(leaf("random(10%, seed: '')"), Leaf::Random { millionths: 100_000, seed: String::new() });
}

#[test]
fn events_are_asked_for_their_typed_properties() {
    let Leaf::Did { event, filter: Some(filter), within, at_least } =
        leaf("did('visit', within: 14d, at_least: 3, where: (page = '/oolong' or not member) and tags contains 'new' and booked < today)")
    else {
        panic!("an event")
    };
    assert_eq!((event.name.as_str(), within, at_least), ("visit", Some(Period { amount: 14, unit: Unit::Day }), 3));
    let Node::All(nodes) = *filter else { panic!("three conditions") };
    let columns: Vec<(String, Home)> = nodes
        .iter()
        .flat_map(|node| match node {
            Node::Any(nodes) => nodes.clone(),
            node => vec![node.clone()],
        })
        .map(|node| match node {
            Node::Leaf { leaf: Leaf::Compare(field, ..) | Leaf::Contains(field, _), .. } => (field.column, field.home),
            other => panic!("{other:?}"),
        })
        .collect();
    let visit = &shop().events["visit"];
    let expected = ["page", "member", "tags", "booked"].map(|name| (visit.column(name).expect("a property"), Home::Event));
    assert_eq!(columns, expected);
    // Behind the call the person is spoken of again.
    understood("did('visit', where: page is set) and city = 'Taipei' and not did('tasting', where: tea in ('oolong'))");
}

#[test]
fn amounts_are_exact_in_ten_thousandths() {
    let of = |source: &str| match leaf(source) {
        Leaf::Ordered { together, .. } => together,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        of("ordered(count >= 2, sum >= 100, average > 19.99, first < '2026-01-01', last >= today - 30d)"),
        [
            Together::Count(Op::AtLeast, 2),
            Together::Sum(Op::AtLeast, 1_000_000),
            Together::Average(Op::More, 199_900),
            Together::First(Op::Less, Moment::Fixed(Date::parse("2026-01-01").expect("a date"))),
            Together::Last(Op::AtLeast, Moment::Today(Period { amount: -30, unit: Unit::Day })),
        ]
    );
    assert_eq!(
        of("ordered(sum = 0.0001, sum <= 100000000000)"),
        [Together::Sum(Op::Equal, 1), Together::Sum(Op::AtMost, 1_000_000_000_000_000)]
    );
    let Leaf::Ordered { within, product, category, at_least, together } = leaf("ordered()") else { panic!("orders") };
    assert_eq!((within, product, category, at_least, together.len()), (None, None, None, 1, 0));
}

proptest! {
    #[test]
    fn every_amount_of_four_decimals_is_kept(parts in 0_i64..1_000_000_000_000_000) {
        let source = format!("ordered(sum >= {}.{:04})", parts / 10_000, parts % 10_000);
        let Leaf::Ordered { together, .. } = leaf_of(&source) else { panic!("orders") };
        prop_assert_eq!(together, vec![Together::Sum(Op::AtLeast, parts)]);
    }
}

fn leaf_of(source: &str) -> Leaf {
    match understood(source).root {
        Node::Leaf { leaf, .. } => leaf,
        other => panic!("{other:?}"),
    }
}

#[test]
fn engagement_is_asked_of_all_topics_or_of_one() {
    use super::rule::Engagement as What;
    let of = |source: &str| match leaf(source) {
        Leaf::Engagement { topic, what, op, value, settings } => {
            assert_eq!(settings.dormant_days, 180);
            (topic, what, op, value)
        }
        other => panic!("{other:?}"),
    };
    let text = |text: &str| Value::Text(text.to_owned());
    assert_eq!(of("engagement.stage = 'dormant'"), (None, What::Stage, Op::Equal, text("dormant")));
    assert_eq!(of("engagement.stage is set"), (None, What::Stage, Op::NotEqual, text("")));
    assert_eq!(of("engagement.score >= 2.5"), (None, What::Score, Op::AtLeast, Value::Number(2.5)));
    assert_eq!(of("engagement.best_hour is set"), (None, What::BestHour, Op::AtLeast, Value::Number(0.0)));
    assert_eq!(of("engagement.best_weekday != 7"), (None, What::BestWeekday, Op::NotEqual, Value::Number(7.0)));
    let shop_topic = Some("shop".to_owned());
    assert_eq!(of("engagement('shop', stage != 'active')"), (shop_topic.clone(), What::Stage, Op::NotEqual, text("active")));
    let Value::Date(Moment::Today(period)) = of("engagement('shop', last_open < today - 30d)").3 else { panic!("a day") };
    assert_eq!(period.amount, -30);
    let parts = |source: &str| match understood(source).root {
        Node::All(nodes) => ("all", nodes),
        Node::Any(nodes) => ("any", nodes),
        other => panic!("{other:?}"),
    };
    let written = |nodes: &[Node]| nodes.iter().map(|node| Rule { root: node.clone() }.to_string()).collect::<Vec<_>>();
    let (joined, nodes) = parts("engagement.best_hour in (9, 10)");
    assert_eq!((joined, written(&nodes)), ("any", vec!["engagement.best_hour = 9".to_owned(), "engagement.best_hour = 10".to_owned()]));
    let (joined, nodes) = parts("engagement('shop', stage = 'cooling', score >= 1)");
    let expected = vec!["engagement('shop', stage = 'cooling')".to_owned(), "engagement('shop', score >= 1)".to_owned()];
    assert_eq!((joined, written(&nodes)), ("all", expected));
}

#[test]
fn scores_are_fields_of_another_table() {
    let Leaf::Compare(field, Op::AtLeast, Value::Number(4.0)) = leaf("rfm.recency >= 4") else { panic!("a comparison") };
    assert_eq!((field.column.as_str(), field.home, field.built_in), ("rfm_recency", Home::Score, false));
    understood("lifecycle in ('loyal', 'at_risk') and lifecycle contains 'risk' and churn.risk > 0.5 and value.decile is set");
    // What an instance declared itself stays its own.
    let mut own = shop();
    own.schema = Schema::new(&[("lifecycle".to_owned(), AttributeType::Number)].into());
    let Node::Leaf { leaf: Leaf::Compare(field, ..), .. } = rule("lifecycle = 3", &own).expect("a number").root else { panic!() };
    assert_eq!(field.home, Home::Contact);
}

#[test]
fn every_word_of_the_reference_is_understood() {
    use super::reference::{FUNCTIONS, KEYWORDS, SCORES};
    let mut catalog = shop();
    catalog.topics.insert("newsletter".to_owned());
    let number = |name: &str| (name.to_owned(), AttributeType::Number);
    let attributes = catalog.schema.attributes().map(|(name, kind)| (name.to_owned(), kind)).chain([number("points")]).collect();
    catalog.schema = Schema::new(&attributes);
    let understood = |source: &str| {
        if let Err(errors) = rule(source, &catalog) {
            panic!("{}", problems("reference", source, &errors).render(false));
        }
    };
    for function in FUNCTIONS {
        understood(function.example);
        let first = function.first.iter().map(|first| first.example.to_owned());
        let mut arguments: Vec<String> = first.collect();
        let named = function.named.iter().map(|parameter| format!("{}: {}", parameter.name, parameter.example));
        arguments.extend(named.chain(function.compared.iter().map(|parameter| parameter.example.to_owned())));
        understood(&format!("{}({})", function.name, arguments.join(", ")));
    }
    KEYWORDS.iter().for_each(|word| understood(word.example));
    for entry in completion(&catalog).fields {
        understood(&entry.example);
        for operator in &entry.operators {
            let value = match (entry.kind, *operator) {
                (_, "is set" | "is not set" | "is today" | "") => "",
                (_, "not") => {
                    understood(&format!("not {}", entry.name));
                    continue;
                }
                (_, "in next" | "in last") => "7 days",
                ("number", "in" | "not in") => "(1, 2)",
                ("date", "in" | "not in") => "(today)",
                (_, "in" | "not in") => "('active')",
                ("number", _) => "3",
                ("boolean", _) => "true",
                ("date", _) => "today - 3d",
                _ => "'active'",
            };
            understood(&format!("{} {operator} {value}", entry.name));
        }
    }
    assert!(SCORES.iter().all(|score| score.name.replace('.', "_").chars().all(|c| c.is_ascii_lowercase() || c == '_')));
}

#[test]
fn questions_to_the_past_count_for_what_they_cost() {
    for leaf in ["ordered()", "did('visit')", "engagement.score > 1", "rfm.recency > 1", "birthday is today", "paused('shop')"] {
        let many = |count: usize| vec![leaf; count].join(" or ");
        assert!(rule(&many((MAX_SIZE - 1) / HISTORY_SIZE), &shop()).is_ok(), "{leaf}");
        let errors = rule(&many(MAX_SIZE / HISTORY_SIZE + 1), &shop()).expect_err(leaf);
        assert!(errors[0].message.starts_with("this rule has more than"), "{leaf}: {errors:?}");
    }
    let deep = format!("did('visit', where: {}member{})", "(".repeat(MAX_DEPTH), ")".repeat(MAX_DEPTH));
    assert!(rule(&deep, &shop()).is_err());
    let regions = vec!["country in region('Europe')"; MAX_SIZE / 50].join(" or ");
    assert!(rule(&regions, &shop()).is_err());
}
