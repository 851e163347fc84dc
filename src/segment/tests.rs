//! Tests of the language: what is understood, what is refused, and in which words. That SQL and
//! memory agree is tested with databases, in `tests/it/segment.rs`.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::clock::{DAY, Time};
use crate::config::AttributeType;
use crate::contact::{AttributeValue, Contact, Date};
use crate::db::Dialect;

pub(super) fn catalog() -> Catalog {
    let attributes: BTreeMap<String, AttributeType> = [
        ("city", AttributeType::Text),
        ("age", AttributeType::Number),
        ("vip", AttributeType::Boolean),
        ("birthday", AttributeType::Date),
        ("interests", AttributeType::List),
        ("城市", AttributeType::Text),
    ]
    .into_iter()
    .map(|(name, kind)| (name.to_owned(), kind))
    .collect();
    let segments = [
        ("regulars", "clicked(within: 30d, at_least: 2) and city = 'Taipei'"),
        ("weekly-buyers", "vip or age > 30"),
        ("vip", "vip"),
        ("alias", " weekly-buyers "),
        ("broken", "town = 'Taipei'"),
        ("uses-broken", "segment('broken')"),
        ("a", "vip and segment('b')"),
        ("b", "not segment('c')"),
        ("c", "age > 3 or segment('a')"),
        ("self", "segment('self')"),
    ];
    Catalog {
        schema: Schema::new(&attributes),
        topics: ["tea-letter", "shop"].map(str::to_owned).into(),
        campaigns: ["weekly", "spring-sale"].map(str::to_owned).into(),
        segments: segments.iter().map(|(name, rule)| ((*name).to_owned(), (*rule).to_owned())).collect(),
        ..Catalog::default()
    }
}

/// A rule with its mistakes as a person sees them.
fn refused(source: &str) -> String {
    match rule(source, &catalog()) {
        Ok(rule) => panic!("`{source}` was understood as `{rule}`"),
        Err(errors) => {
            for error in &errors {
                assert!(source.get(error.span.clone()).is_some(), "`{source}`: {error:?} lies outside");
                assert!(!error.hint.is_empty(), "`{source}`: `{}` gives no next step", error.message);
                assert!(!error.message.ends_with('.'), "{}", error.message);
            }
            problems("rule", source, &errors).render(false).trim_end().to_owned()
        }
    }
}

fn understood(source: &str) -> Rule {
    match rule(source, &catalog()) {
        Ok(rule) => rule,
        Err(errors) => panic!("{}", problems("rule", source, &errors).render(false)),
    }
}

/// The whole structure, with every parenthesis.
pub(super) fn structure(expr: &Expr) -> String {
    let all = |terms: &[Expr], word: &str| format!("({})", terms.iter().map(structure).collect::<Vec<_>>().join(word));
    match &expr.kind {
        ExprKind::And(terms) => all(terms, " and "),
        ExprKind::Or(terms) => all(terms, " or "),
        ExprKind::Not(inner) => format!("(not {})", structure(inner)),
        _ => expr.to_string(),
    }
}

fn person() -> Person {
    let contact = Contact {
        id: 7_654_321,
        email: "Ann@Example.com".to_owned(),
        email_key: "ann@example.com".to_owned(),
        first_name: Some("Ann".to_owned()),
        last_name: None,
        locale: Some("zh-Hant".to_owned()),
        timezone: None,
        phone: Some(String::new()),
        external_id: None,
        attributes: BTreeMap::from([
            ("city".to_owned(), AttributeValue::Text("台北".to_owned())),
            ("age".to_owned(), AttributeValue::Number(30.0)),
            ("birthday".to_owned(), AttributeValue::Date(Date::parse("2008-11-22").expect("a date"))),
            ("interests".to_owned(), AttributeValue::List(vec!["oolong".to_owned(), "green tea".to_owned()])),
        ]),
    };
    let click = |days: i64, human| HitFact {
        kind: HitKind::Click,
        campaign: Some("weekly".to_owned()),
        topic: Some("tea-letter".to_owned()),
        url: Some("https://tea.example/".to_owned()),
        at: now().plus(-days * DAY),
        human,
        times: 1,
    };
    let (campaign, topic) = (Some("weekly".to_owned()), Some("tea-letter".to_owned()));
    let total = |link, url: Option<&str>| TotalFact {
        link,
        campaign: campaign.clone(),
        topic: topic.clone(),
        url: url.map(str::to_owned),
        human: 3,
        any: 4,
        last_at: Some(now().plus(-DAY)),
    };
    Person {
        standings: [("tea-letter".to_owned(), (crate::consent::Standing::Subscribed, now().plus(-100 * DAY)))].into(),
        mails: vec![MailFact { campaign: campaign.clone(), topic: topic.clone(), at: now().plus(-7 * DAY), bounced: false }],
        hits: vec![click(40, true), click(3, false), click(2, true), click(1, true)],
        totals: vec![total(-2, None), total(0, Some("https://tea.example/"))],
        ..Person::new(contact)
    }
}

fn now() -> Time {
    Time::parse("2026-11-22T09:00:00Z").expect("a time")
}

#[test]
fn and_binds_tighter_than_or_and_not_tighter_than_both() {
    for (source, expected) in [
        ("vip or age > 1 and city = 'x'", "(vip or (age > 1 and city = 'x'))"),
        ("vip and age > 1 or city = 'x' and vip", "((vip and age > 1) or (city = 'x' and vip))"),
        ("(vip or age > 1) and city = 'x'", "((vip or age > 1) and city = 'x')"),
        ("not vip and age > 1", "((not vip) and age > 1)"),
        ("not age > 1", "(not age > 1)"),
        ("NOT (vip OR NOT vip)", "(not (vip or (not vip)))"),
        ("city is not set", "(not city is set)"),
        ("city not in ('x') or vip", "((not city in ('x')) or vip)"),
        ("interests not contains 'x'", "(not interests contains 'x')"),
        ("not not vip", "(not (not vip))"),
        ("vip and vip and vip", "(vip and vip and vip)"),
    ] {
        assert_eq!(structure(&parse(source).expect("it reads")), expected, "{source}");
    }
}

#[test]
fn the_canonical_form_has_one_spelling() {
    for (source, canonical) in [
        ("  vip  ", "vip"),
        ("city='Tai''pei'", "city = 'Tai''pei'"),
        ("not (city IS  set)", "city is not set"),
        ("age >= 030.50", "age >= 30.5"),
        ("age > - 5", "age > -5"),
        ("birthday<today-18Y", "birthday < today - 18y"),
        ("birthday < TODAY + 0d", "birthday < today"),
        ("random( 10.50 % , seed:'a' )", "random(10.5%, seed: 'a')"),
        ("clicked(campaign:'weekly',within:30D,any:TRUE,at_least:2,)", "clicked(campaign: 'weekly', within: 30d, any: true, at_least: 2)"),
        ("((vip)) AND(city='x')", "vip and city = 'x'"),
        ("vip and (age>1 and vip)", "vip and (age > 1 and vip)"),
        ("(vip or vip) and not (vip and vip)", "(vip or vip) and not (vip and vip)"),
        ("did('visit', within: 14d, where: page = '/oolong')", "did('visit', within: 14d, where: page = '/oolong')"),
        ("ordered(within: 90d, at_least: 2, sum >= 100)", "ordered(within: 90d, at_least: 2, sum >= 100)"),
        ("rfm . recency >= 4", "rfm.recency >= 4"),
    ] {
        let written = parse(source).expect("it reads").to_string();
        assert_eq!(written, canonical);
        assert_eq!(parse(&written).expect("it reads").to_string(), written);
    }
}

#[test]
fn every_example_of_the_documentation_is_understood() {
    for source in [
        "city = 'Taipei'",
        "age >= 30",
        "vip",
        "interests contains 'oolong'",
        "city in ('Taipei', 'Tainan')",
        "birthday is set",
        "not vip",
        "(vip or age > 3) and not city = 'x'",
        "segment('regulars')",
        "subscribed('tea-letter')",
        "sent(campaign: 'weekly', within: 7d)",
        "random(10%)",
        "opened(within: 30d)",
        "clicked(campaign: 'weekly', link: 'https://..', within: 30d, at_least: 2)",
        "clicked(any: true)",
        "birthday < today - 18y",
        "birthday >= '2026-12-01'",
        "城市 = '台北'",
        "weekly-buyers",
        "alias",
        "first_name contains '🍵' and email = 'Ann@Example.com' and locale in ('zh-Hant')",
        "city != 'x' and city < 'y' and age != 1.5 and vip = true and vip != false",
    ] {
        understood(source);
    }
}

#[test]
fn mistakes_are_shown_with_their_place_and_the_next_step() {
    let mut shown = String::new();
    for source in [
        "",
        "   ",
        "city",
        "city =",
        "city = Taipei",
        "city = New York and vip",
        "city = \"Taipei\"",
        "city = ‘台北’",
        "city = 'Taipei",
        "city == 'Taipei' && vip || !vip",
        "city <> 'x'",
        "citty = 'x'",
        "tea = 'x'",
        "City = 'x'",
        "age = '30'",
        "age > thirty",
        "age > 1,000",
        "age > 1_000",
        "age between 20 and 30 or citi = 'x'",
        "18 <= age",
        "true < vip",
        "vip = 'yes'",
        "vip > true",
        "vip = 1",
        "vip in (true)",
        "true",
        "'Taipei'",
        "interests = 'oolong'",
        "interests in ('oolong', 'green')",
        "interests",
        "age contains 3",
        "city contains ''",
        "city = ''",
        "city like 'Tai%'",
        "city is null",
        "city is not empty",
        "city is 'Taipei'",
        "city in 'Taipei'",
        "city in ()",
        "city in ('a' 'b')",
        "city in ('a', 'b'",
        "birthday < 18y",
        "birthday < today - 18",
        "birthday < today - 12h",
        "birthday = 2026-12-01",
        "birthday = '2026/12/01'",
        "birthday = '01.12.2026'",
        "birthday = '2026-02-30'",
        "birthday < now",
        "(vip or age > 3",
        "vip) or age > 3",
        "vip and",
        "and vip",
        "vip and and vip",
        "vip age > 3",
        "not",
        "vip, age > 3",
        "(vip, age > 3)",
        "weekly-buyers and vip",
        "weekly-byers",
        "age - 3 > 2",
        "vip and (age > 1,000 or citi = 'x')",
        "regulars and vip",
        "regular and vip",
        "segment('regular')",
        "segment(regulars)",
        "segment()",
        "segment('a')",
        "self",
        "segment('broken')",
        "uses-broken",
        "subscribed('tea-leter')",
        "subscribed(topic: 'shop')",
        "subscribed",
        "opened",
        "opened('weekly')",
        "opened(30d)",
        "opened(within: 30)",
        "opened(within: 30 d)",
        "opened(within: 30days)",
        "opened(within: 30min)",
        "opened(within: 1.5d)",
        "opened(within: 0d)",
        "opened(campaign: 'weakly')",
        "opened(campain: 'weekly')",
        "opened(link: 'https://x')",
        "sent(any: true)",
        "clicked(at_least: 0)",
        "clicked(at_least: 2.5)",
        "clicked(any: 'yes')",
        "clicked(campaign: 'weekly', campaign: 'spring-sale')",
        "clicked(campaign = 'weekly')",
        "clicked(at_least >= 2)",
        "clicked(within: 7d and any: true)",
        "klicked(within: 7d)",
        "bought('x')",
        "did('visit', within: 14d, at_least: 3, where: page = '/oolong')",
        "random(10)",
        "random(0.1)",
        "random()",
        "random(120%)",
        "random(10%, 'spring')",
        "age > 1e999",
        "age # 3",
        "city = 'a\u{0}b'",
        "（vip）and city＝'x'",
        "citi = 'x' or (age = 'y' and opened(within: 7)) and vip vip",
        "SELECT * FROM contact",
        "city = 'Taipei'; DROP TABLE contact",
        "city == null",
    ] {
        shown.push_str(&format!("{source:?}\n{}\n\n", refused(source)));
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn every_mistake_is_told_at_once_with_its_bytes() {
    let source = "citi = '茶' and opened(within: 7) or interests = 'x'";
    let errors = rule(source, &catalog()).expect_err("three mistakes");
    let places: Vec<&str> = errors.iter().map(|error| &source[error.span.clone()]).collect();
    assert_eq!(places, ["citi", "7", "interests"]);
}

#[test]
fn circles_are_refused_with_their_path() {
    for (source, path) in
        [("segment('a')", "`a` -> `b` -> `c` -> `a`"), ("vip and segment('c')", "`c` -> `a` -> `b` -> `c`"), ("self", "`self` -> `self`")]
    {
        let errors = rule(source, &catalog()).expect_err("a circle");
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!(errors[0].message, format!("segments go in a circle: {path}"), "{source}");
    }
}

#[test]
fn a_segment_named_like_its_attribute_is_no_circle() {
    assert_eq!(understood("vip").to_string(), "vip");
    assert_eq!(understood("segment('vip') or vip").to_string(), "vip or vip");
}

#[test]
fn segments_that_multiply_are_refused_before_they_fill_the_memory() {
    let mut catalog = catalog();
    catalog.segments.insert("s0".to_owned(), "vip".to_owned());
    for level in 1..=40 {
        let inner = level - 1;
        let rule = format!("segment('s{inner}') and not segment('s{inner}') or segment('s{inner}')");
        catalog.segments.insert(format!("s{level}"), rule);
    }
    assert!(rule("s3", &catalog).is_ok());
    let errors = rule("s40", &catalog).expect_err("three to the fortieth");
    assert!(errors.iter().any(|error| error.message.starts_with("this rule")), "{errors:?}");
}

#[test]
fn sizes_and_depths_have_limits() {
    let deep = |levels: usize| format!("{}vip{}", "(".repeat(levels), ")".repeat(levels));
    assert!(rule(&deep(MAX_DEPTH - 1), &catalog()).is_ok());
    assert!(rule(&deep(100_000), &catalog()).is_err());
    assert!(rule(&"not ".repeat(60_000), &catalog()).is_err());
    let wide = |count: usize| vec!["age = 1"; count].join(" or ");
    assert!(rule(&wide(MAX_SIZE - 1), &catalog()).is_ok());
    assert!(rule(&wide(MAX_SIZE + 1), &catalog()).is_err());
    let long = format!("city in ({})", vec!["'x'"; MAX_SIZE + 1].join(", "));
    assert!(rule(&long, &catalog()).is_err());
    assert!(rule(&format!("city = '{}'", "x".repeat(MAX_SOURCE_BYTES)), &catalog()).is_err());
}

#[test]
fn a_missing_value_fails_both_a_condition_and_its_counterpart_but_not_its_opposite() {
    let judge = |source: &str| evaluate(&understood(source), &person(), now());
    for source in ["vip", "vip = false", "vip != true", "last_name = 'x'", "last_name != 'x'", "timezone contains 'a'", "城市 in ('x')"] {
        assert!(!judge(source), "{source}");
        assert!(judge(&format!("not ({source})")), "not ({source})");
    }
}

#[test]
fn conditions_mean_what_they_say() {
    let judge = |source: &str| evaluate(&understood(source), &person(), now());
    for source in [
        "city = '台北'",
        "city contains '北'",
        "age >= 30 and age <= 30 and not age > 30",
        "interests contains 'oolong'",
        "not interests contains 'green'",
        "birthday <= today - 18y",
        "not birthday < today - 18y",
        "birthday = '2008-11-22'",
        "email = 'ANN@example.COM'",
        "phone is not set",
        "first_name is set and last_name is not set",
        "subscribed('tea-letter') and not subscribed('shop')",
        "sent(campaign: 'weekly', within: 7d) and not sent(within: 167h)",
        "clicked(at_least: 3) and not clicked(at_least: 4) and clicked(at_least: 4, any: true)",
        "clicked(within: 30d, at_least: 2, link: 'https://tea.example/') and not clicked(campaign: 'spring-sale')",
        "not opened()",
        "random(100%) and not random(0%)",
    ] {
        assert!(judge(source), "{source}");
    }
}

#[test]
fn an_explanation_names_each_condition_and_its_segment() {
    let clauses = explain(&understood("segment('regulars') and not vip or phone is not set"), &person(), now());
    let told: Vec<(String, bool, Option<&str>)> =
        clauses.iter().map(|clause| (clause.text.clone(), clause.held, clause.segment.as_deref())).collect();
    assert_eq!(
        told,
        [
            ("clicked(within: 30d, at_least: 2)".to_owned(), true, Some("regulars")),
            ("city = 'Taipei'".to_owned(), false, Some("regulars")),
            ("not vip".to_owned(), true, None),
            ("phone is not set".to_owned(), true, None),
        ]
    );
    let facts: Vec<&str> = clauses.iter().map(|clause| clause.facts.as_str()).collect();
    assert_eq!(facts, ["last human click 2026-11-21, 2 within 30d", "city is '台北'", "vip is not set", "phone is not set"]);
}

#[test]
fn everyone_and_nobody_can_be_written_in_sql() {
    let everyone = compile(&Rule::everyone(), Dialect::Sqlite, now(), 1);
    assert_eq!((everyone.text.as_str(), everyone.args.len()), ("(c.merged_into IS NULL AND TRUE)", 0));
    assert_eq!(compile(&Rule::everyone().negated(), Dialect::Postgres, now(), 1).text, "(c.merged_into IS NULL AND FALSE)");
    assert!(evaluate(&Rule::everyone(), &person(), now()) && !evaluate(&Rule::everyone().negated(), &person(), now()));
}

#[test]
fn parameters_are_numbered_from_where_the_caller_says() {
    let sql = compile(&understood("city = 'x' and clicked(campaign: 'weekly', within: 7d)"), Dialect::Sqlite, now(), 5);
    assert_eq!(
        sql.text,
        "(c.merged_into IS NULL AND (c.t_city = $5 AND c.id IN (SELECT h.contact_id FROM hit_total h \
         WHERE h.link = -2 AND h.last_at >= $6 AND +h.run_id IN (SELECT r.id FROM run r WHERE r.campaign = $7))))"
    );
    assert_eq!(sql.args, crate::args!["x", now().plus(-7 * DAY), "weekly"]);
}

#[test]
fn order_is_by_bytes_and_equality_leaves_indexes_usable_on_postgresql() {
    let sql = |source: &str| compile(&understood(source), Dialect::Postgres, now(), 1).text;
    assert!(sql("email = 'a@b.example'").ends_with(" AND c.email_key = $1)"));
    assert!(sql("first_name < 'B'").ends_with(" AND c.first_name COLLATE \"C\" < $1)"));
    assert!(sql("city < 'B'").ends_with(" AND c.t_city < $1)"), "attribute columns are declared in byte order");
}

#[test]
fn under_or_and_not_postgresql_never_searches_a_set_row_by_row() {
    let sql = |source: &str, dialect| compile(&understood(source), dialect, now(), 1).text;
    for source in ["vip or opened()", "not opened()", "vip or opened(at_least: 2)", "not sent(at_least: 2)"] {
        assert!(sql(source, Dialect::Postgres).contains("EXISTS ("), "{source}");
        assert!(sql(source, Dialect::Sqlite).contains("c.id IN ("), "{source}");
    }
    // What is large SQLite asks step by step, too; as a block of an audience is.
    let large = compile_knowing(&understood("not opened() and vip"), Dialect::Sqlite, now(), 1, &[true]).text;
    assert!(large.contains("NOT EXISTS (SELECT 1 FROM hit_total h WHERE h.contact_id = c.id AND "), "{large}");
    for source in ["vip and opened()", "(vip or age > 3) and sent(at_least: 2)"] {
        assert!(sql(source, Dialect::Postgres).contains("c.id IN ("), "{source}");
    }
}

#[test]
fn months_and_years_go_by_the_calendar() {
    let at = |text: &str| Time::parse(text).expect("a time");
    let period = |amount, unit| Period { amount, unit };
    assert_eq!(compile::ago(at("2026-03-31T10:00:00Z"), period(1, Unit::Month)), at("2026-02-28T10:00:00Z"));
    assert_eq!(compile::ago(at("2024-02-29T10:00:00Z"), period(1, Unit::Year)), at("2023-02-28T10:00:00Z"));
    assert_eq!(compile::ago(at("2026-03-31T10:00:00Z"), period(36, Unit::Hour)), at("2026-03-29T22:00:00Z"));
    assert_eq!(compile::ago(at("2026-03-31T10:00:00Z"), period(99_999, Unit::Year)), Time::from_millis(i64::MIN));
    let day = |amount, unit| compile::day(Moment::Today(period(amount, unit)), at("2026-03-31T23:59:59Z")).to_string();
    assert_eq!(day(-1, Unit::Month), "2026-02-28");
    assert_eq!(day(2, Unit::Week), "2026-04-14");
    assert_eq!(day(-99_999, Unit::Year), "0001-01-01");
    assert_eq!(day(99_999, Unit::Month), "9999-12-31");
}

/// Pieces from which nonsense is made: every token of the language, and some of others.
const PIECES: &[&str] = &[
    "vip",
    "city",
    "age",
    "and",
    "or",
    "not",
    "in",
    "contains",
    "is",
    "set",
    "true",
    "today",
    "segment",
    "opened",
    "where",
    "(",
    ")",
    ",",
    ":",
    "=",
    "<=",
    "!=",
    "==",
    "'x'",
    "'",
    "\"",
    "30",
    "30d",
    "10%",
    "1_000",
    "-",
    "+",
    ".",
    "!",
    "&&",
    "茶",
    "‘",
    "%",
    "\u{0}",
    "2026-01-01",
    " ",
    "between",
];

proptest! {
    #[test]
    fn any_text_is_either_understood_or_refused_within_its_bounds(source in "\\PC{0,60}") {
        prop_assert!(judged_within_bounds(&source));
    }

    #[test]
    fn any_row_of_pieces_is_either_understood_or_refused_within_its_bounds(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES.to_vec()), 0..25),
        spaced in any::<bool>(),
    ) {
        let between = if spaced { " " } else { "" };
        prop_assert!(judged_within_bounds(&pieces.join(between)));
    }
}

fn judged_within_bounds(source: &str) -> bool {
    match rule(source, &catalog()) {
        Ok(_) => true,
        Err(errors) => !errors.is_empty() && errors.iter().all(|error| source.get(error.span.clone()).is_some() && !error.hint.is_empty()),
    }
}
