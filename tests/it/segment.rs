//! The two readings of a rule, SQL on both databases and Rust in memory, mean the same: random rules
//! over random people with a random past.

use std::collections::{BTreeMap, BTreeSet};

use optin::args;
use optin::behaviour::EventSchema;
use optin::clock::{DAY, HOUR, Time};
use optin::config::{AttributeType, EngagementSettings};
use optin::contact::{AttributeValue, Date, Schema, sql::bind_value};
use optin::db::{Db, Value};
use optin::entropy::Entropy;
use optin::segment::{self, Catalog, Person, Rule};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::BoxedStrategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use crate::support;

/// People of one population.
const PEOPLE: usize = 60;
/// Attribute texts: other scripts, both cases, what SQL, LIKE and our own quotes treat specially,
/// prefixes of each other, and characters that collations reorder.
const TEXTS: &[&str] = &[
    "Taipei",
    "taipei",
    "TAIPEI",
    "Tai",
    "台北",
    "台",
    "Zürich",
    "Zurich",
    "zürich",
    "it's",
    "''",
    "100%",
    "a_b",
    "a%b",
    "back\\slash",
    "🍵",
    "🍵🍵",
    "e\u{301}",
    "é",
    "$1",
    "?1",
    "; DROP TABLE contact; --",
    "-",
    " ",
    "~",
    "ß",
    "ss",
    "İ",
    "\u{feff}x",
    "0",
    "10",
    "9",
    "DE",
    "TW",
];
const CAMPAIGNS: &[&str] = &["weekly", "promo", "frühling-茶"];
/// Products by id or, where they have none, by name: some names are ids of others.
const PRODUCTS: &[&str] = &["p1", "p2", "Oolong", "烏龍"];
const CATEGORIES: &[&str] = &["oolong", "cups"];
const PAGES: &[&str] = &["/", "/oolong", "/烏龍", "/a'b"];
const FROZEN: &[&str] = &["spring", "empty"];
const STAGES: &[&str] = &["active", "cooling", "dormant"];
const TOPICS: &[&str] = &["tea-letter", "shop", "events"];
const LINKS: &[&str] = &["https://tea.example/", "https://tea.example/?a=1&b='2'", "https://tea.example/烏龍"];
const NUMBERS: &[f64] =
    &[0.0, -0.0, 1.0, 30.0, 29.999_999_999_999_996, 0.1, 0.30000000000000004, -1.5, 1e15, 1e-9, 9_007_199_254_740_993.0];
const PERIODS: &[&str] = &["1h", "12h", "24h", "1d", "7d", "30d", "1w", "2w", "1mo", "6mo", "1y", "200y", "100000w"];
const SHIFTS: &[&str] = &["", " - 1d", " + 1d", " - 2w", " - 1mo", " + 1mo", " - 18y", " + 1y", " - 100000y", " + 100000mo"];

#[test]
fn sql_and_memory_agree() {
    run(0, 3, 40);
}

#[test]
#[ignore = "long form: 120,000 pairs of a rule and a person on each database, takes minutes"]
fn sql_and_memory_agree_on_many_more() {
    run(1_000, 40, 50);
}

fn run(first_seed: u64, populations: u64, rules: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let homes = support::databases();
    let mut databases = Vec::new();
    for home in &homes {
        databases.push((home.name, runtime.block_on(home.open())));
    }
    let catalog = catalog();
    for (_, db) in &databases {
        runtime.block_on(optin::contact::ops::ensure_columns(db, &catalog.schema)).unwrap();
        runtime.block_on(ensure_events(db, &catalog));
    }
    let mut picked_by_sample = BTreeMap::new();
    let (mut held, mut judged) = (0, 0);
    for seed in first_seed..first_seed + populations {
        let now = moment(seed);
        let ids = runtime.block_on(populate(&databases, seed, now));
        let people: Vec<Vec<Person>> = databases.iter().map(|(_, db)| runtime.block_on(load(db, &catalog, &ids))).collect();
        assert!(people.windows(2).all(|pair| pair[0] == pair[1]), "people read alike from every database");
        let config = Config { cases: rules, failure_persistence: None, ..Config::default() };
        let mut bytes = [7; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let outcome = runner.run(&expression(), |source| {
            let rule = segment::rule(&source, &catalog)
                .map_err(|errors| TestCaseError::fail(segment::problems("rule", &source, &errors).render(false)))?;
            same_when_written_canonically(&source, &rule, &catalog)?;
            let expected: BTreeSet<i64> =
                people[0].iter().filter(|person| segment::evaluate(&rule, person, now)).map(|person| person.contact.id).collect();
            for (name, db) in &databases {
                runtime.block_on(same_in_sql(name, db, &catalog, &rule, now, &ids, &expected))?;
            }
            Ok(())
        });
        if let Err(error) = outcome {
            panic!("population {seed}: {error}");
        }
        // Rules that pick nobody or everybody would agree by accident.
        for rule in sample_rules(&catalog) {
            let picked = people[0].iter().filter(|person| segment::evaluate(&rule, person, now)).count();
            *picked_by_sample.entry(rule.to_string()).or_insert(0) += picked;
            held += picked;
            judged += people[0].len();
        }
    }
    let never: Vec<_> = picked_by_sample.iter().filter(|(_, picked)| **picked == 0).collect();
    assert!(never.is_empty(), "nobody was ever picked by {never:?}");
    assert!(held * 20 > judged && held * 20 < judged * 19, "{held} of {judged} held: the populations do not exercise the rules");
}

#[test]
fn the_largest_rules_run_on_both_databases() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let catalog = catalog();
    let deep = (0..segment::MAX_DEPTH / 2 - 1).fold("vip".to_owned(), |inner, level| format!("(age > {level} and (staff or {inner}))"));
    let wide = vec!["age = 1"; segment::MAX_SIZE - 1].join(" or ");
    let listed = format!("city in ({})", vec!["'x'"; segment::MAX_SIZE - 2].join(", "));
    let history = vec!["not clicked(campaign: 'weekly', link: 'https://tea.example/', within: 7d, at_least: 2)"; 500].join(" and ");
    for home in support::databases() {
        let db = runtime.block_on(home.open());
        runtime.block_on(optin::contact::ops::ensure_columns(&db, &catalog.schema)).unwrap();
        runtime.block_on(ensure_events(&db, &catalog));
        for source in [&deep, &wide, &listed, &history] {
            let rule = segment::rule(source, &catalog).expect("within the limits");
            let counted = runtime.block_on(segment::ops::count(&db, &rule, moment(0)));
            assert_eq!(counted.unwrap(), 0, "{}", home.name);
        }
    }
}

/// SQLite chooses by its rules alone, so what it does with nobody it does with a million, too.
#[tokio::test]
async fn the_past_is_served_by_indexes() {
    let database = support::TestDatabase::sqlite();
    let db = database.open().await;
    let catalog = catalog();
    optin::contact::ops::ensure_columns(&db, &catalog.schema).await.unwrap();
    ensure_events(&db, &catalog).await;
    // As a set, and step by step.
    for (source, set, step) in [
        ("opened(within: 30d)", "hit_total_last", "hit_total_contact"),
        ("opened(topic: 'shop', within: 30d)", "hit_total_last", "hit_total_contact"),
        ("clicked()", "hit_total_last", "hit_total_contact"),
        ("opened(at_least: 3)", "hit_total_last", "hit_total_contact"),
        ("clicked(campaign: 'weekly')", "hit_total_run", "hit_total_contact"),
        ("clicked(link: 'https://tea.example/')", "hit_total_run", "hit_total_contact"),
        ("clicked(within: 30d, at_least: 2)", "hit_at", "hit_contact"),
        ("opened(within: 30d, any: true)", "hit_at", "hit_contact"),
        ("sent(within: 7d)", "delivery_sent", "delivery_sent_to"),
        ("bounced(within: 7d)", "delivery_bounced", "delivery_"),
        ("did('visit', within: 14d)", "at_did_visit", "contact_did_visit"),
        ("ordered(within: 90d)", "orders_at", "orders_contact"),
        ("ordered(product: 'p1')", "order_line_product", "order_line_contact"),
        ("ordered(category: 'oolong', within: 90d)", "order_line_category", "order_line_contact"),
    ] {
        let rule = segment::rule(source, &catalog).expect("a good rule");
        let plan = segment::plan(&db, &rule, moment(0)).await.unwrap();
        assert!(plan.conditions[0].indexes.iter().any(|index| index.starts_with(set)), "{source}: {:#?}", plan.steps);
        let small: Vec<_> = plan.conditions[0].whole.iter().filter(|table| !["run", "run_link"].contains(&table.as_str())).collect();
        assert!(small.is_empty(), "{source} reads all of {small:?}");
        let condition = segment::compile_for_blocks(&rule, db.dialect(), moment(0), 1);
        let sql = format!("EXPLAIN QUERY PLAN SELECT COUNT(*) FROM contact c WHERE {}", condition.text);
        let steps: Vec<String> = db.fetch_all(&sql, condition.args).await.unwrap().iter().map(|row| row.get(3).unwrap()).collect();
        assert!(steps.iter().any(|line| line.contains(&format!(" {step}"))), "{source} step by step: {steps:#?}");
    }
}

async fn same_in_sql(
    name: &str,
    db: &Db,
    catalog: &Catalog,
    rule: &Rule,
    now: Time,
    ids: &[i64],
    expected: &BTreeSet<i64>,
) -> Result<(), TestCaseError> {
    let failed = |error: optin::db::DbError| TestCaseError::fail(format!("{name}: {error:?}"));
    let members = segment::ops::members(db, &catalog.schema, rule, now, 1_000).await.map_err(failed)?;
    let members: Vec<i64> = members.iter().map(|contact| contact.id).collect();
    prop_assert!(members.is_sorted(), "{}: members come by id", name);
    let members: BTreeSet<i64> = members.into_iter().collect();
    prop_assert_eq!(&members, expected, "{}: SQL (left) and memory (right) differ for `{}`", name, rule);
    // The form for blocks picks the same people, and so does the one for a large past.
    let blocks = segment::compile_for_blocks(rule, db.dialect(), now, 2);
    let large = segment::compile_knowing(rule, db.dialect(), now, 2, &[true; 100]);
    for (form, condition) in [("in blocks", blocks), ("of a large past", large)] {
        let sql = format!("SELECT COUNT(*) FROM contact c WHERE c.id >= $1 AND {}", condition.text);
        let arguments = args![0].into_iter().chain(condition.args).collect();
        let counted: i64 = db.fetch_one(&sql, arguments).await.and_then(|row| row.get(0)).map_err(failed)?;
        prop_assert_eq!(counted as usize, expected.len(), "{}: {}, `{}`", name, form, rule);
    }
    // The opposite picks exactly the others, but for those who were merged: nobody falls between the two.
    let others = segment::ops::count(db, &rule.negated(), now).await.map_err(failed)?;
    let merged: i64 = db
        .fetch_one("SELECT COUNT(*) FROM contact WHERE merged_into IS NOT NULL", args![])
        .await
        .and_then(|row| row.get(0))
        .map_err(failed)?;
    prop_assert_eq!(others as usize, ids.len() - expected.len() - merged as usize, "{}: the opposite of `{}`", name, rule);
    Ok(())
}

fn same_when_written_canonically(source: &str, rule: &Rule, catalog: &Catalog) -> Result<(), TestCaseError> {
    let canonical = segment::parse(source).expect("it was read before").to_string();
    let again = segment::rule(&canonical, catalog).map_err(|errors| TestCaseError::fail(format!("{canonical}: {errors:?}")))?;
    prop_assert_eq!(rule, &again, "canonical form `{}`", canonical);
    prop_assert_eq!(&canonical, &segment::parse(&canonical).expect("it was read").to_string());
    Ok(())
}

// Rules ------------------------------------------------------------------------------------------

pub(crate) fn catalog() -> Catalog {
    let attributes = [
        ("city", AttributeType::Text),
        ("nick", AttributeType::Text),
        ("age", AttributeType::Number),
        ("spent", AttributeType::Number),
        ("vip", AttributeType::Boolean),
        ("staff", AttributeType::Boolean),
        ("birthday", AttributeType::Date),
        ("joined", AttributeType::Date),
        ("interests", AttributeType::List),
    ];
    let segments = [
        ("locals", "city in ('Taipei', '台北') or not age >= 30"),
        ("readers-2", "segment('locals') and not opened(within: 30d)"),
        ("vip", "vip"),
        ("alias", "readers-2"),
    ];
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Catalog {
        schema: Schema::new(&attributes.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect::<BTreeMap<_, _>>()),
        topics: owned(TOPICS),
        campaigns: owned(CAMPAIGNS),
        events: [visit(), quiz()].into_iter().map(|event| (event.name.clone(), event)).collect(),
        country: Some("nick".to_owned()),
        engagement: Some(EngagementSettings { half_life_days: 30, cooling_days: 30, dormant_days: 181 }),
        segments: segments.iter().map(|(name, rule)| ((*name).to_owned(), (*rule).to_owned())).collect(),
    }
}

fn visit() -> EventSchema {
    let properties = [
        ("page", AttributeType::Text),
        ("duration", AttributeType::Number),
        ("mobile", AttributeType::Boolean),
        ("day", AttributeType::Date),
        ("tags", AttributeType::List),
    ];
    EventSchema { name: "visit".to_owned(), properties: properties.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect() }
}

fn quiz() -> EventSchema {
    EventSchema { name: "quiz".to_owned(), properties: BTreeMap::from([("score".to_owned(), AttributeType::Number)]) }
}

fn sample_rules(catalog: &Catalog) -> Vec<Rule> {
    [
        "age >= 1",
        "vip",
        "opened()",
        "clicked(any: true)",
        "sent(at_least: 2)",
        "subscribed('shop')",
        "interests contains '台北'",
        "birthday is set",
        "random(50%)",
        "birthday in next 7 days",
        "birthday is today",
        "bounced()",
        "delivered(within: 30d)",
        "opened(at_least: 2, within: 30d)",
        "clicked(link: 'https://tea.example/', at_least: 2)",
        "subscribed('tea-letter', since < today - 7d)",
        "unsubscribed('shop')",
        "did('visit', where: page = '/oolong' and duration > 1)",
        "did('quiz', at_least: 2)",
        "ordered(sum >= 100)",
        "ordered(within: 30d, average > 20)",
        "ordered(product: 'p1')",
        "ordered(category: 'oolong', count >= 2)",
        "engagement.stage = 'active'",
        "engagement.stage = 'cooling'",
        "engagement.stage = 'dormant'",
        "engagement.score >= 2",
        "engagement.best_hour = 9",
        "engagement('tea-letter', stage = 'cooling')",
        "rfm.recency >= 2",
        "lifecycle = 'loyal'",
        "frozen('spring')",
        "nick in region('EU')",
    ]
    .iter()
    .map(|source| segment::rule(source, catalog).expect("a good rule"))
    .collect()
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn expression() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        4 => on_fields(),
        4 => on_history(),
        2 => on_events(),
        3 => on_orders(),
        3 => on_engagement(),
        2 => on_standing(),
        1 => on_others(),
    ];
    leaf.prop_recursive(5, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 2..5).prop_map(|terms| format!("({})", terms.join(" and "))),
            proptest::collection::vec(inner.clone(), 2..5).prop_map(|terms| format!("({})", terms.join(" or "))),
            // Without parentheses: precedence is part of the meaning.
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("{a} OR {b} And {c}")),
            inner.clone().prop_map(|term| format!("not ({term})")),
            inner.prop_map(|term| format!("NOT {term}")),
        ]
    })
    .boxed()
}

fn operator() -> impl Strategy<Value = &'static str> {
    select(vec!["=", "!=", "<", "<=", ">", ">="])
}

fn literal_text() -> impl Strategy<Value = String> {
    select(TEXTS.to_vec()).prop_map(quoted)
}

fn number() -> impl Strategy<Value = String> {
    select(NUMBERS.to_vec()).prop_map(|number| number.to_string())
}

fn date(now_year: i32) -> impl Strategy<Value = String> {
    let fixed = (now_year - 40..now_year + 2, 1..13, 1..29).prop_map(|(year, month, day)| format!("'{year:04}-{month:02}-{day:02}'"));
    prop_oneof![2 => select(SHIFTS.to_vec()).prop_map(|shift| format!("today{shift}")), 1 => fixed]
}

fn on_fields() -> BoxedStrategy<String> {
    let text = || select(vec!["city", "nick", "first_name", "last_name", "locale", "email", "external_id"]);
    let field = select(vec!["city", "age", "vip", "birthday", "interests", "first_name", "phone", "email", "timezone"]);
    let listed = |value: BoxedStrategy<String>| proptest::collection::vec(value, 1..5).prop_map(|values| values.join(", "));
    prop_oneof![
        (text(), operator(), literal_text()).prop_map(|(field, op, value)| format!("{field} {op} {value}")),
        (text(), any::<bool>(), listed(literal_text().boxed()))
            .prop_map(|(field, not, values)| format!("{field} {}in ({values})", if not { "not " } else { "" })),
        (text(), literal_text()).prop_map(|(field, value)| format!("{field} contains {value}")),
        (select(vec!["age", "spent"]), operator(), number()).prop_map(|(field, op, value)| format!("{field} {op} {value}")),
        listed(number().boxed()).prop_map(|values| format!("age in ({values})")),
        (select(vec!["birthday", "joined"]), operator(), date(2026)).prop_map(|(field, op, value)| format!("{field} {op} {value}")),
        listed(date(2026).boxed()).prop_map(|values| format!("joined in ({values})")),
        select(vec!["vip", "staff", "vip = true", "vip != true", "staff = false", "vip != false"]).prop_map(str::to_owned),
        literal_text().prop_map(|value| format!("interests contains {value}")),
        (field, any::<bool>()).prop_map(|(field, not)| format!("{field} is {}set", if not { "not " } else { "" })),
        (0..PEOPLE, operator()).prop_map(|(index, op)| format!("email {op} 'Person{index}@Example.com'")),
        (select(vec!["birthday", "joined"]), stretch()).prop_map(|(field, stretch)| format!("{field} {stretch}")),
        select(vec!["nick in region('EU')", "city not in region('EU')"]).prop_map(str::to_owned),
    ]
    .boxed()
}

/// Days around today, some of which cross a year's end or a leap day.
fn stretch() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("is today".to_owned()),
        (select(vec!["next", "last"]), select(vec!["1 day", "2 days", "7 days", "30 days", "2 weeks", "52w", "366 days"]))
            .prop_map(|(way, days)| format!("in {way} {days}")),
    ]
}

fn call(name: &str, arguments: Vec<Option<String>>) -> String {
    format!("{name}({})", arguments.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

fn within() -> BoxedStrategy<Option<String>> {
    proptest::option::of(select(PERIODS.to_vec()).prop_map(|period| format!("within: {period}"))).boxed()
}

fn at_least() -> BoxedStrategy<Option<String>> {
    proptest::option::of((1..4).prop_map(|count| format!("at_least: {count}"))).boxed()
}

/// `sum >= 100` and the like, each with its values.
fn compared(name: &'static str, value: BoxedStrategy<String>) -> BoxedStrategy<Option<String>> {
    proptest::option::weighted(0.3, (operator(), value).prop_map(move |(op, value)| format!("{name} {op} {value}"))).boxed()
}

fn on_events() -> BoxedStrategy<String> {
    let condition = prop_oneof![
        (operator(), select(PAGES.to_vec()).prop_map(quoted)).prop_map(|(op, page)| format!("page {op} {page}")),
        select(vec!["page in ('/', '/oolong')", "page contains '龍'", "page is set", "tags contains 'Tai'", "tags is not set"])
            .prop_map(str::to_owned),
        (operator(), number()).prop_map(|(op, value)| format!("duration {op} {value}")),
        select(vec!["mobile", "not mobile", "mobile != true", "duration is set"]).prop_map(str::to_owned),
        (operator(), date(2026)).prop_map(|(op, value)| format!("day {op} {value}")),
    ];
    let filter = condition.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 2..4).prop_map(|terms| format!("({})", terms.join(" and "))),
            proptest::collection::vec(inner.clone(), 2..4).prop_map(|terms| format!("({})", terms.join(" or "))),
            inner.prop_map(|term| format!("not {term}")),
        ]
    });
    let filter = proptest::option::weighted(0.7, filter.prop_map(|filter| format!("where: {filter}")));
    prop_oneof![
        4 => (within(), at_least(), filter).prop_map(|(a, b, c)| call("did", vec![Some("'visit'".to_owned()), a, b, c])),
        1 => (within(), at_least(), proptest::option::of(operator().prop_map(|op| format!("where: score {op} 1"))))
            .prop_map(|(a, b, c)| call("did", vec![Some("'quiz'".to_owned()), a, b, c])),
    ]
    .boxed()
}

fn on_orders() -> BoxedStrategy<String> {
    let amount = || select(vec!["0", "10", "20", "20.5", "33.3333", "100"]).prop_map(str::to_owned).boxed();
    let count = || (2..5).prop_map(|count: i32| count.to_string()).boxed();
    let optional = |argument: BoxedStrategy<String>| proptest::option::weighted(0.4, argument);
    let product = optional(select(PRODUCTS.to_vec()).prop_map(|product| format!("product: {}", quoted(product))).boxed());
    let category = optional(select(CATEGORIES.to_vec()).prop_map(|category| format!("category: {}", quoted(category))).boxed());
    let goods = prop_oneof![Just((None, None)), (product, category)];
    let sums = (
        compared("count", count()),
        compared("sum", amount()),
        compared("average", amount()),
        compared("first", date(2026).boxed()),
        compared("last", date(2026).boxed()),
    );
    (within(), at_least(), goods, sums)
        .prop_map(|(within, at_least, (product, category), (count, sum, average, first, last))| {
            call("ordered", vec![within, at_least, product, category, count, sum, average, first, last])
        })
        .boxed()
}

fn on_engagement() -> BoxedStrategy<String> {
    let equal = || select(vec!["=", "!="]);
    let stage = || (equal(), select(STAGES.to_vec())).prop_map(|(op, stage)| format!("stage {op} '{stage}'"));
    let score = || {
        (select(vec!["<", "<=", ">", ">="]), select(vec!["0", "0.5", "2", "1000"])).prop_map(|(op, score)| format!("score {op} {score}"))
    };
    let hour = (operator(), 8..11).prop_map(|(op, hour)| format!("best_hour {op} {hour}"));
    let weekday = (operator(), 1..4).prop_map(|(op, day)| format!("best_weekday {op} {day}"));
    let last = (select(vec!["last_open", "last_click"]), operator(), date(2026)).prop_map(|(field, op, day)| format!("{field} {op} {day}"));
    let others = select(vec![
        "engagement.best_weekday in (1, 2)",
        "engagement.last_click is set",
        "engagement.last_open is not set",
        "rfm.recency >= 3",
        "rfm.frequency != 2",
        "rfm.monetary in (1, 5)",
        "value.historic < 10",
        "value.decile is set",
        "lifecycle = 'loyal'",
        "lifecycle > 'a'",
        "lifecycle is not set",
        "churn.risk > 0.5",
    ]);
    prop_oneof![
        3 => prop_oneof![stage().boxed(), score().boxed(), hour.boxed(), weekday.boxed(), last.boxed()].prop_map(|text| format!("engagement.{text}")),
        2 => (select(TOPICS.to_vec()), prop_oneof![stage().boxed(), score().boxed()])
            .prop_map(|(topic, text)| format!("engagement({}, {text})", quoted(topic))),
        2 => others.prop_map(str::to_owned),
    ]
    .boxed()
}

fn on_standing() -> BoxedStrategy<String> {
    let since = proptest::option::of((operator(), date(2026)).prop_map(|(op, day)| format!("since {op} {day}")));
    let name = select(vec!["subscribed", "pending", "paused", "unsubscribed"]);
    (name, select(TOPICS.to_vec()), within(), since)
        .prop_map(|(name, topic, within, since)| call(name, vec![Some(quoted(topic)), within, since]))
        .boxed()
}

fn on_history() -> BoxedStrategy<String> {
    let optional = |argument: BoxedStrategy<String>| proptest::option::of(argument);
    let campaign = || optional(select(CAMPAIGNS.to_vec()).prop_map(|name| format!("campaign: {}", quoted(name))).boxed());
    let topic = || optional(select(TOPICS.to_vec()).prop_map(|name| format!("topic: {}", quoted(name))).boxed());
    let machines = || optional(any::<bool>().prop_map(|flag| format!("any: {flag}")).boxed());
    let link = || optional(select(LINKS.to_vec()).prop_map(|url| format!("link: {}", quoted(url))).boxed());
    let mails = select(vec!["sent", "delivered", "bounced"]);
    prop_oneof![
        (mails, campaign(), topic(), within(), at_least()).prop_map(move |(name, a, b, c, d)| call(name, vec![a, b, c, d])),
        (within(), campaign(), topic(), at_least(), machines()).prop_map(move |(a, b, c, d, e)| call("opened", vec![a, b, c, d, e])),
        (campaign(), topic(), link(), within(), at_least(), machines())
            .prop_map(move |(a, b, c, d, e, f)| call("clicked", vec![a, b, c, d, e, f])),
    ]
    .boxed()
}

fn on_others() -> BoxedStrategy<String> {
    prop_oneof![
        select(FROZEN.to_vec()).prop_map(|list| format!("frozen({})", quoted(list))),
        select(vec!["locals", "readers-2", "vip", "alias"]).prop_map(|name| format!("segment('{name}')")),
        (select(vec!["0%", "0.0001%", "10%", "50%", "99.5%", "100%"]), proptest::option::of(literal_text())).prop_map(|(share, seed)| {
            match seed {
                Some(seed) => format!("random({share}, seed: {seed})"),
                None => format!("random({share})"),
            }
        }),
    ]
    .boxed()
}

// People -----------------------------------------------------------------------------------------

/// Ends of months and years, a leap day, and an ordinary time.
fn moment(seed: u64) -> Time {
    let moments =
        ["2026-02-25T10:00:00Z", "2026-03-31T10:00:00Z", "2024-02-29T00:00:00Z", "2026-12-31T23:59:59.999Z", "2026-07-15T12:34:56.789Z"];
    Time::parse(moments[seed as usize % moments.len()]).unwrap()
}

/// Writes the same people and past into every database, in place of those before; answers their ids.
async fn populate(databases: &[(&'static str, Db)], seed: u64, now: Time) -> Vec<i64> {
    let statements = statements(seed, now);
    for (_, db) in databases {
        let mut tx = db.begin().await.unwrap();
        for table in TABLES {
            tx.execute(&format!("DELETE FROM {table}"), args![]).await.unwrap();
        }
        for (sql, args) in &statements.1 {
            tx.execute(sql, args.clone()).await.unwrap();
        }
        tx.commit().await.unwrap();
    }
    statements.0
}

const TABLES: &[&str] = &[
    "contact",
    "topic",
    "subscription",
    "run",
    "run_link",
    "delivery",
    "hit",
    "hit_total",
    "orders",
    "order_line",
    "order_total",
    "did_visit",
    "did_quiz",
    "engagement",
    "score",
    "frozen_list",
    "frozen_member",
];

/// Tables of events, as the configuration declares them.
async fn ensure_events(db: &Db, catalog: &Catalog) {
    optin::behaviour::ops::ensure_tables(db, &catalog.events, moment(0)).await.unwrap();
}

type Statement = (String, Vec<Value>);

fn insert(table: &str, columns: &str, args: Vec<Value>) -> Statement {
    let marks: Vec<String> = (1..=args.len()).map(|number| format!("${number}")).collect();
    (format!("INSERT INTO {table} ({columns}) VALUES ({})", marks.join(", ")), args)
}

fn statements(seed: u64, now: Time) -> (Vec<i64>, Vec<Statement>) {
    let entropy = Entropy::seeded(seed);
    let mut statements = Vec::new();
    // The topic `events` has no row yet: nobody ever subscribed to it.
    for (id, name) in [(1, "tea-letter"), (2, "shop")] {
        statements.push(insert("topic", "id, name", args![id, name]));
    }
    let runs: Vec<i64> = (0..6).map(|index| entropy.id(now.plus(-(index * 9) * DAY))).collect();
    // The last run has no row of its own any more.
    for (index, run) in runs.iter().take(5).enumerate() {
        let columns = "id, campaign, topic_id, firing, state, scheduled_at, created_at, definition_hash, definition, excluded, audience, audience_cursor, audience_done";
        let campaign = CAMPAIGNS[index % CAMPAIGNS.len()];
        let topic = 1 + (index % 2) as i64;
        let args = args![*run, campaign, topic, format!("f{index}"), "finished", now, now, "", "{}", "{}", 0, 0, true];
        statements.push(insert("run", columns, args));
        for (position, url) in LINKS.iter().enumerate().take(1 + index % 3) {
            statements.push(insert("run_link", "run_id, position, url, name", args![*run, position as i64, *url, "a link"]));
        }
    }
    let ids: Vec<i64> = entropy.ids(now, PEOPLE).collect();
    for (id, name) in (1_i64..).zip(FROZEN) {
        statements.push(insert("frozen_list", "id, name, rule, at, size", args![id, *name, "everyone", now, 0]));
    }
    for (index, id) in ids.iter().enumerate() {
        statements.push(person(&entropy, *id, index, now));
        if entropy.chance(0.05) {
            statements.push(("UPDATE contact SET merged_into = $1 WHERE id = $2".to_owned(), args![ids[0], *id]));
        }
        past(&entropy, *id, &runs, now, &mut statements);
        orders(&entropy, *id, now, &mut statements);
        events(&entropy, *id, now, &mut statements);
        responses(&entropy, *id, now, &mut statements);
    }
    (ids, statements)
}

fn pick<'a, T>(entropy: &Entropy, from: &'a [T]) -> &'a T {
    &from[entropy.below(from.len() as u64) as usize]
}

fn maybe_text(entropy: &Entropy) -> Option<String> {
    entropy.chance(0.7).then(|| if entropy.chance(0.1) { String::new() } else { (*pick(entropy, TEXTS)).to_owned() })
}

fn person(entropy: &Entropy, id: i64, index: usize, now: Time) -> Statement {
    let mut columns =
        "id, email, email_key, first_name, last_name, locale, timezone, phone, external_id, created_at, updated_at".to_owned();
    let mut args = args![id, format!("Person{index}@example.com"), format!("person{index}@example.com")];
    args.extend((0..6).map(|_| Value::from(maybe_text(entropy))));
    args.extend(args![now, now]);
    let mut set = |name: &str, kind: AttributeType, value: AttributeValue| {
        columns.push_str(&format!(", {}", Schema::column(name, kind)));
        args.push(bind_value(&value));
    };
    for name in ["city", "nick"] {
        if let Some(text) = maybe_text(entropy) {
            set(name, AttributeType::Text, AttributeValue::Text(text));
        }
    }
    for name in ["age", "spent"] {
        if entropy.chance(0.7) {
            set(name, AttributeType::Number, AttributeValue::Number(*pick(entropy, NUMBERS)));
        }
    }
    for name in ["vip", "staff"] {
        if entropy.chance(0.7) {
            set(name, AttributeType::Boolean, AttributeValue::Boolean(entropy.chance(0.5)));
        }
    }
    for name in ["birthday", "joined"] {
        if entropy.chance(0.7) {
            set(name, AttributeType::Date, AttributeValue::Date(day(entropy, now)));
        }
    }
    if entropy.chance(0.7) {
        let values = (0..entropy.below(4)).map(|_| (*pick(entropy, TEXTS)).to_owned()).collect();
        set("interests", AttributeType::List, AttributeValue::List(values));
    }
    insert("contact", &columns, args)
}

/// A day close to one that rules ask for.
fn day(entropy: &Entropy, now: Time) -> Date {
    if entropy.chance(0.1) {
        let days = ["1988-02-29", "2024-02-29", "1999-02-28", "1999-03-01", "2000-12-31", "2001-01-01"];
        return Date::parse(pick::<&str>(entropy, &days)).unwrap();
    }
    let today = now.timestamp().to_zoned(jiff::tz::TimeZone::UTC).date();
    let back = match entropy.below(6) {
        0 => jiff::Span::new(),
        1 => jiff::Span::new().years(18),
        2 => jiff::Span::new().months(1),
        3 => jiff::Span::new().weeks(2),
        4 => jiff::Span::new().months(-1),
        _ => jiff::Span::new().days(entropy.below(14_000) as i64),
    };
    let nudge = jiff::Span::new().days(entropy.below(5) as i64 - 2);
    Date::from(today.checked_sub(back).unwrap().checked_add(nudge).unwrap())
}

/// A moment at, just before or just after the edge of a period that rules ask for.
fn edge(entropy: &Entropy, now: Time) -> Time {
    let days = *pick(entropy, &[0, 1, 7, 14, 28, 30, 31, 59, 181, 182, 184, 365, 366]);
    let hours = *pick(entropy, &[0, 0, 1, 12]);
    now.plus(-(days * DAY + hours * HOUR) + entropy.below(3) as i64 - 1)
}

fn past(entropy: &Entropy, contact: i64, runs: &[i64], now: Time, statements: &mut Vec<Statement>) {
    let states = ["due", "claimed", "sent", "sent", "sent", "sent", "deferred", "bounced", "failed", "in_doubt", "skipped"];
    for topic in [1, 2] {
        if entropy.chance(0.7) {
            let standing = *pick(entropy, &["pending", "subscribed", "subscribed", "paused", "unsubscribed"]);
            let columns = "topic_id, contact_id, standing, since, last_seq";
            statements.push(insert("subscription", columns, args![topic, contact, standing, edge(entropy, now), 1]));
        }
    }
    for run in runs {
        if entropy.chance(0.4) {
            continue;
        }
        let delivery = entropy.id(now);
        let columns = "id, run_id, contact_id, state, due_at, attempts, changed_at, transactional";
        let transactional = entropy.chance(0.1);
        let args = args![delivery, *run, contact, *pick(entropy, &states), now, 1, edge(entropy, now), transactional];
        statements.push(insert("delivery", columns, args));
        hits(entropy, contact, delivery, *run, now, statements);
    }
}

/// Hits of one mail, and what they add up to. Some were put together, some are not kept any more and are only in
/// the totals.
fn hits(entropy: &Entropy, contact: i64, delivery: i64, run: i64, now: Time, statements: &mut Vec<Statement>) {
    #[derive(Default)]
    struct Total {
        counts: BTreeMap<&'static str, i64>,
        first: Option<Time>,
        last: Option<Time>,
    }
    let mut totals: BTreeMap<i64, Total> = BTreeMap::new();
    for _ in 0..entropy.below(3) {
        let click = entropy.chance(0.6);
        // Some clicks are on a link that the run does not list.
        let link = click.then(|| entropy.below(4) as i64);
        let verdict = *pick(entropy, &["human", "human", "human", "machine", "unknowable"]);
        let times = if entropy.chance(0.3) { 1 + entropy.below(3) as i64 } else { 1 };
        let at = edge(entropy, now);
        let columns = "id, at, kind, delivery_id, run_id, contact_id, link, verdict, signals, times";
        let kind = if click { "click" } else { "open" };
        if entropy.chance(0.85) {
            let args = args![entropy.id(now), at, kind, delivery, run, contact, link, verdict, "", times];
            statements.push(insert("hit", columns, args));
        }
        for link in if click { [Some(-2), link] } else { [Some(-1), None] }.into_iter().flatten() {
            let total = totals.entry(link).or_default();
            *total.counts.entry(verdict).or_default() += times;
            if verdict == "human" {
                total.first = Some(total.first.map_or(at, |first| first.min(at)));
                total.last = Some(total.last.map_or(at, |last| last.max(at)));
            }
        }
    }
    // An address that no person sees was fetched: it counts for nothing.
    if entropy.chance(0.1) {
        let columns = "id, at, kind, delivery_id, run_id, contact_id, link, verdict, signals";
        let args = args![entropy.id(now), edge(entropy, now), "trap", delivery, run, contact, None::<i64>, "machine", ""];
        statements.push(insert("hit", columns, args));
    }
    for (link, total) in totals {
        let count = |verdict: &str| total.counts.get(verdict).copied().unwrap_or(0);
        let columns = "delivery_id, link, run_id, contact_id, human, machine, unknowable, first_at, last_at";
        let (human, machine, unknowable) = (count("human"), count("machine"), count("unknowable"));
        let args = args![delivery, link, run, contact, human, machine, unknowable, total.first, total.last];
        statements.push(insert("hit_total", columns, args));
    }
}

/// Orders with their lines, some given back in part or as a whole, and what they add up to.
fn orders(entropy: &Entropy, contact: i64, now: Time, statements: &mut Vec<Statement>) {
    let mut held: Vec<(Time, i64)> = Vec::new();
    for _ in 0..entropy.below(4) {
        let (order, at) = (entropy.id(now), edge(entropy, now));
        let mut amount = 0;
        let lines = 1 + entropy.below(3) as i64;
        let mut refunded_lines = 0;
        for line in 0..lines {
            let worth = *pick(entropy, &[0, 100_000, 205_000, 333_333, 1_000_000]);
            let refunded = entropy.chance(0.2);
            refunded_lines += i64::from(refunded);
            let left = if refunded { 0 } else { worth };
            amount += left;
            let product_id = entropy.chance(0.6).then(|| *pick(entropy, PRODUCTS));
            let product = entropy.chance(0.8).then(|| *pick(entropy, PRODUCTS));
            let category = entropy.chance(0.8).then(|| *pick(entropy, CATEGORIES));
            let columns = "order_id, line, contact_id, at, product_id, product, category, quantity, paid, given_back, amount, refunded";
            let args = args![order, line, contact, at, product_id, product, category, 1.0, worth, worth - left, left, refunded];
            statements.push(insert("order_line", columns, args));
        }
        // What is given back as a whole is void.
        let void = refunded_lines == lines;
        let columns = "id, order_key, contact_id, known_as, at, amount, refunded, void, currency, rate, digest, revision, recorded_at";
        let args = args![order, order.to_string(), contact, contact, at, amount, 0, void, "EUR", 1.0, "", now, now];
        statements.push(insert("orders", columns, args));
        if !void {
            held.push((at, amount));
        }
    }
    if let (Some(first), Some(last)) = (held.iter().map(|(at, _)| *at).min(), held.iter().map(|(at, _)| *at).max()) {
        let sum: i64 = held.iter().map(|(_, amount)| amount).sum();
        let columns = "contact_id, orders, amount, first_at, last_at";
        statements.push(insert("order_total", columns, args![contact, held.len() as i64, sum, first, last]));
    }
}

fn events(entropy: &Entropy, contact: i64, now: Time, statements: &mut Vec<Statement>) {
    for event in [visit(), quiz()] {
        for _ in 0..entropy.below(4) {
            let id = entropy.id(now);
            let mut columns = "id, event_key, contact_id, known_as, at, recorded_at, revision".to_owned();
            let mut args = args![id, id.to_string(), contact, contact, edge(entropy, now), now, 1];
            for (name, kind) in &event.properties {
                if entropy.chance(0.25) {
                    continue;
                }
                let value = match kind {
                    AttributeType::Text => AttributeValue::Text((*pick(entropy, PAGES)).to_owned()),
                    AttributeType::Number => AttributeValue::Number(*pick(entropy, NUMBERS)),
                    AttributeType::Boolean => AttributeValue::Boolean(entropy.chance(0.5)),
                    AttributeType::Date => AttributeValue::Date(day(entropy, now)),
                    AttributeType::List => {
                        AttributeValue::List((0..entropy.below(3)).map(|_| (*pick(entropy, TEXTS)).to_owned()).collect())
                    }
                };
                columns.push_str(&format!(", {}", event.column(name).unwrap()));
                args.push(bind_value(&value));
            }
            statements.push(insert(&event.table(), &columns, args));
        }
    }
}

/// How somebody responds, their scores and the lists they are in: anything that the tables can hold.
fn responses(entropy: &Entropy, contact: i64, now: Time, statements: &mut Vec<Statement>) {
    for topic in [0, 1, 2] {
        if entropy.chance(0.4) {
            continue;
        }
        let maybe = |at: Time| entropy.chance(0.6).then_some(at);
        let (open, click) = (maybe(edge(entropy, now)), maybe(edge(entropy, now)));
        // About what some points are worth now.
        let half_lives = now.since(Time::parse("2020-01-01T00:00:00Z").unwrap()) as f64 / (30.0 * DAY as f64);
        let weight = *pick(entropy, &[0.0, 0.5, 0.499_999, 1.9, 2.0, 2.1, 40.0]) * half_lives.exp2();
        let hour = entropy.chance(0.7).then(|| 8 + entropy.below(3) as i64);
        let weekday = entropy.chance(0.7).then(|| 1 + entropy.below(3) as i64);
        let columns = "topic_id, contact_id, opens, clicks, last_open_at, last_click_at, weight, hours, best_hour, best_weekday";
        statements.push(insert("engagement", columns, args![topic, contact, 1, 1, open, click, weight, "", hour, weekday]));
    }
    if entropy.chance(0.7) {
        let whole = || entropy.chance(0.7).then(|| 1 + entropy.below(5) as i64);
        let number = || entropy.chance(0.7).then(|| *pick(entropy, NUMBERS));
        let lifecycle = entropy.chance(0.7).then(|| *pick(entropy, &["loyal", "new", "Lost", ""]));
        let columns = "contact_id, rfm_recency, rfm_frequency, rfm_monetary, rfm_latency, value_historic, value_lifetime, value_decile, lifecycle, churn_risk";
        let args = args![contact, whole(), whole(), whole(), whole(), number(), number(), whole(), lifecycle, number()];
        statements.push(insert("score", columns, args));
    }
    if entropy.chance(0.3) {
        statements.push(insert("frozen_member", "list_id, contact_id", args![1, contact]));
    }
}

async fn load(db: &Db, catalog: &Catalog, ids: &[i64]) -> Vec<Person> {
    let mut people = Vec::with_capacity(ids.len());
    for id in ids {
        people.push(segment::ops::person(db, catalog, *id).await.unwrap().expect("they were just written"));
    }
    assert!(segment::ops::person(db, catalog, 1).await.unwrap().is_none(), "nobody has this id");
    people
}

// The command ------------------------------------------------------------------------------------

support::on_each_database!(
    async fn explain_shows_the_plan_and_why_somebody_is_in(database) {
        let shop = support::instance(&database, &[("topics.toml", "[tea]\nname = \"Tea\"\n")]);
        std::fs::write(shop.root().join("people.csv"), "email,first_name\nmei@example.com,Mei\nkay@example.com,\n").unwrap();
        shop.optin(&["import", "contacts", "people.csv"]).exits(0);
        let rule = "first_name = 'Mei' and not clicked(within: 90d)";
        let all = shop.optin(&["segment", "explain", rule, "--json"]).exits(0).json();
        assert_eq!(all["count"], 1);
        let conditions = all["conditions"].as_array().unwrap();
        assert_eq!(conditions.len(), 2);
        assert_eq!(conditions[0]["whole"], serde_json::json!(["contact"]));
        let indexes = conditions[1]["indexes"].to_string();
        assert!(database.name == "postgres" || indexes.contains("hit_total"), "{indexes}");
        assert!(all["sql"].as_str().unwrap().contains("merged_into IS NULL"), "{all}");
        assert!(!all["plan"].as_array().unwrap().is_empty());
        let text = shop.optin(&["segment", "explain", rule]).exits(0).stdout;
        assert!(text.contains("Picks 1 contact in") && text.contains("reads all of contact") && text.contains("$1 = \"Mei\""), "{text}");

        let one = shop.optin(&["segment", "explain", rule, "--email", "kay@example.com", "--json"]).exits(0).json();
        assert_eq!(one["picked"], false);
        assert_eq!(one["conditions"][0]["facts"], "first_name is not set");
        assert_eq!(one["conditions"][1], serde_json::json!({
            "text": "not clicked(within: 90d)", "held": true, "facts": "no human click", "segment": null
        }));
        let text = shop.optin(&["segment", "explain", rule, "--email", "mei@example.com"]).exits(0).stdout;
        assert!(text.contains("mei@example.com is in it.") && text.contains("first_name is 'Mei'"), "{text}");
        shop.optin(&["segment", "explain", rule, "--email", "nobody@example.com"]).exits(1);
    }
);
