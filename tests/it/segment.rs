//! The two readings of a rule, SQL on both databases and Rust in memory, mean the same: random rules
//! over random people with a random past.

use std::collections::{BTreeMap, BTreeSet};

use optin::args;
use optin::clock::{DAY, HOUR, Time};
use optin::config::AttributeType;
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
];
const CAMPAIGNS: &[&str] = &["weekly", "promo", "frühling-茶"];
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
#[ignore = "long form: some 700,000 pairs of a rule and a person, takes minutes"]
fn sql_and_memory_agree_on_many_more() {
    run(1_000, 60, 200);
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
    }
    let (mut held, mut judged) = (0, 0);
    for seed in first_seed..first_seed + populations {
        let now = moment(seed);
        let ids = runtime.block_on(populate(&databases, seed, now));
        let people: Vec<Vec<Person>> = databases.iter().map(|(_, db)| runtime.block_on(load(db, &catalog.schema, &ids))).collect();
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
            held += people[0].iter().filter(|person| segment::evaluate(&rule, person, now)).count();
            judged += people[0].len();
        }
    }
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
        for source in [&deep, &wide, &listed, &history] {
            let rule = segment::rule(source, &catalog).expect("within the limits");
            let counted = runtime.block_on(segment::ops::count(&db, &rule, moment(0)));
            assert_eq!(counted.unwrap(), 0, "{}", home.name);
        }
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
    // The form for blocks picks the same people.
    let blocks = segment::compile_for_blocks(rule, db.dialect(), now, 2);
    let sql = format!("SELECT COUNT(*) FROM contact c WHERE c.id >= $1 AND {}", blocks.text);
    let arguments = args![0].into_iter().chain(blocks.args).collect();
    let counted: i64 = db.fetch_one(&sql, arguments).await.and_then(|row| row.get(0)).map_err(failed)?;
    prop_assert_eq!(counted as usize, expected.len(), "{}: in blocks, `{}`", name, rule);
    // The opposite picks exactly the others: nobody falls between the two.
    let others = segment::ops::count(db, &rule.negated(), now).await.map_err(failed)?;
    prop_assert_eq!(others as usize, ids.len() - expected.len(), "{}: the opposite of `{}`", name, rule);
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
        segments: segments.iter().map(|(name, rule)| ((*name).to_owned(), (*rule).to_owned())).collect(),
        ..Catalog::default()
    }
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
    ]
    .iter()
    .map(|source| segment::rule(source, catalog).expect("a good rule"))
    .collect()
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn expression() -> BoxedStrategy<String> {
    let leaf = prop_oneof![4 => on_fields(), 3 => on_history(), 1 => on_others()];
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
    ]
    .boxed()
}

fn on_history() -> BoxedStrategy<String> {
    let optional = |argument: BoxedStrategy<String>| proptest::option::of(argument);
    let campaign = || optional(select(CAMPAIGNS.to_vec()).prop_map(|name| format!("campaign: {}", quoted(name))).boxed());
    let topic = || optional(select(TOPICS.to_vec()).prop_map(|name| format!("topic: {}", quoted(name))).boxed());
    let within = || optional(select(PERIODS.to_vec()).prop_map(|period| format!("within: {period}")).boxed());
    let at_least = || optional((1..4).prop_map(|count| format!("at_least: {count}")).boxed());
    let machines = || optional(any::<bool>().prop_map(|flag| format!("any: {flag}")).boxed());
    let link = || optional(select(LINKS.to_vec()).prop_map(|url| format!("link: {}", quoted(url))).boxed());
    let call = |name: &'static str, arguments: Vec<Option<String>>| {
        format!("{name}({})", arguments.into_iter().flatten().collect::<Vec<_>>().join(", "))
    };
    prop_oneof![
        (campaign(), topic(), within(), at_least()).prop_map(move |(a, b, c, d)| call("sent", vec![a, b, c, d])),
        (within(), campaign(), topic(), at_least(), machines()).prop_map(move |(a, b, c, d, e)| call("opened", vec![a, b, c, d, e])),
        (campaign(), topic(), link(), within(), at_least(), machines())
            .prop_map(move |(a, b, c, d, e, f)| call("clicked", vec![a, b, c, d, e, f])),
    ]
    .boxed()
}

fn on_others() -> BoxedStrategy<String> {
    prop_oneof![
        select(TOPICS.to_vec()).prop_map(|topic| format!("subscribed({})", quoted(topic))),
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
    let moments = ["2026-03-31T10:00:00Z", "2024-02-29T00:00:00Z", "2026-12-31T23:59:59.999Z", "2026-07-15T12:34:56.789Z"];
    Time::parse(moments[seed as usize % moments.len()]).unwrap()
}

/// Writes the same people and past into every database, in place of those before; answers their ids.
async fn populate(databases: &[(&'static str, Db)], seed: u64, now: Time) -> Vec<i64> {
    let statements = statements(seed, now);
    for (_, db) in databases {
        let mut tx = db.begin().await.unwrap();
        for table in ["contact", "topic", "subscription", "run", "run_link", "delivery", "hit"] {
            tx.execute(&format!("DELETE FROM {table}"), args![]).await.unwrap();
        }
        for (sql, args) in &statements.1 {
            tx.execute(sql, args.clone()).await.unwrap();
        }
        tx.commit().await.unwrap();
    }
    statements.0
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
    for (index, id) in ids.iter().enumerate() {
        statements.push(person(&entropy, *id, index, now));
        past(&entropy, *id, &runs, now, &mut statements);
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
            statements.push(insert("subscription", columns, args![topic, contact, standing, now, 1]));
        }
    }
    for run in runs {
        if entropy.chance(0.4) {
            continue;
        }
        let delivery = entropy.id(now);
        let columns = "id, run_id, contact_id, state, due_at, attempts, changed_at";
        statements.push(insert("delivery", columns, args![delivery, *run, contact, *pick(entropy, &states), now, 1, edge(entropy, now)]));
        for _ in 0..entropy.below(3) {
            let click = entropy.chance(0.6);
            // Some clicks are on a link that the run does not list.
            let link = click.then(|| entropy.below(4) as i64);
            let verdict = if entropy.chance(0.6) { "human" } else { "machine" };
            let columns = "id, at, kind, delivery_id, run_id, contact_id, link, verdict, signals";
            let kind = if click { "click" } else { "open" };
            let args = args![entropy.id(now), edge(entropy, now), kind, delivery, *run, contact, link, verdict, ""];
            statements.push(insert("hit", columns, args));
        }
    }
}

async fn load(db: &Db, schema: &Schema, ids: &[i64]) -> Vec<Person> {
    let mut people = Vec::with_capacity(ids.len());
    for id in ids {
        people.push(segment::ops::person(db, schema, *id).await.unwrap().expect("they were just written"));
    }
    assert!(segment::ops::person(db, schema, 1).await.unwrap().is_none(), "nobody has this id");
    people
}
