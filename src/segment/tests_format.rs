//! Tests of the one layout of a rule, and that everything written reads back as the same.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::BoxedStrategy;

use super::tests::structure;
use super::tests_forms::shop;
use super::*;

#[test]
fn long_rules_are_laid_out_with_what_joins_them_at_the_front() {
    let catalog = shop();
    let mut shown = String::new();
    for source in [
        "vip  and   city='Taipei'",
        " weekly-buyers ",
        "city = 'Taipei' and clicked(campaign: 'weekly', within: 90d, at_least: 2) and birthday in next 7 days and not vip",
        "(city = 'Taipei' or city = 'Tainan' or country in region('EU')) and (vip or did('visit', within: 30d) or engagement.score >= 3)",
        "vip and city = 'Taipei' and birthday is set or subscribed('tea-letter', within: 30d) and not opened(within: 30d) and age > 30 or age < 3",
        "not (vip and city = 'Taipei' and birthday is set and subscribed('tea-letter', within: 30d) and not opened(within: 30d))",
        "city not in ('Taipei', 'Tainan', 'Kaohsiung', 'Hsinchu', 'Keelung', 'Chiayi', 'Taoyuan', 'Hualien', 'Taitung', 'Yilan')",
        "did('visit', within: 30d, at_least: 3, where: page = '/oolong/high-mountain' and duration > 30 and (member or tags contains 'new'))",
        "vip or (city = 'a very long name of a city that leaves no place for more' and did('visit', within: 30d, where: page = '/oolong'))",
        "vip and (age > 1 and (age > 2 or city = 'a very long name of a city that leaves no place' or city = 'and another one of these'))",
        "city = 'a text is never broken, however long it may be, because every blank in it is a part of it, and so is the end'",
    ] {
        let text = formatted(source, &catalog).expect(source);
        assert_eq!(formatted(&text, &catalog).expect("it reads"), text, "formatting twice");
        shown.push_str(&format!("{text}\n\n"));
    }
    insta::assert_snapshot!(shown);
    assert!(formatted("weekly-byers", &catalog).is_err_and(|errors| errors[0].hint.contains("weekly-buyers")));
}

const SPAN: std::ops::Range<usize> = 0..0;

fn name(names: &[&'static str]) -> impl Strategy<Value = Name> + use<> {
    select(names.to_vec()).prop_map(|text| Name { text: text.to_owned(), span: SPAN })
}

/// Fields, also those whose names are words elsewhere.
fn field() -> impl Strategy<Value = Name> {
    name(&[
        "vip",
        "city",
        "城市",
        "rfm.recency",
        "engagement.stage",
        "next",
        "last",
        "region",
        "the",
        "where",
        "days",
        "a_long_name_of_an_attribute",
    ])
}

fn period(units: &[Unit]) -> impl Strategy<Value = Period> + use<> {
    (0_i64..=100_000, select(units.to_vec())).prop_map(|(amount, unit)| Period { amount, unit })
}

fn literal() -> BoxedStrategy<Literal> {
    use LiteralKind::*;
    let every = [Unit::Hour, Unit::Day, Unit::Week, Unit::Month, Unit::Year];
    prop_oneof![
        4 => "[^\\p{C}]{0,24}".prop_map(Text),
        1 => "['\"`\\\\# (),]{1,6}".prop_map(Text),
        2 => prop_oneof![Just(0.0), -1e6..1e6, any::<i32>().prop_map(f64::from), Just(1e300), Just(5e-324)].prop_map(Number),
        1 => any::<bool>().prop_map(Boolean),
        1 => period(&every).prop_map(Duration),
        1 => (0_u32..=1_000_000).prop_map(Percent),
        1 => Just(Today(Period { amount: 0, unit: Unit::Day })),
        1 => (period(&every), any::<bool>()).prop_filter_map("today alone has one spelling", |(period, back)| {
            (period.amount > 0).then(|| Today(Period { amount: if back { -period.amount } else { period.amount }, ..period }))
        }),
        1 => "[A-Za-z ']{1,12}".prop_map(Region),
    ]
    .prop_map(|kind| Literal { kind, span: SPAN })
    .boxed()
}

fn op() -> impl Strategy<Value = Op> {
    select(vec![Op::Equal, Op::NotEqual, Op::Less, Op::AtMost, Op::More, Op::AtLeast])
}

fn stretch() -> impl Strategy<Value = Stretch> {
    let days = || period(&[Unit::Day, Unit::Week]);
    prop_oneof![Just(Stretch::Today), days().prop_map(Stretch::Next), days().prop_map(Stretch::Last)]
}

fn expr() -> BoxedStrategy<Expr> {
    let made = |kind| Expr { kind, span: SPAN };
    let call = || name(&["opened", "did", "ordered", "segment", "whatever"]);
    let key = || name(&["within", "campaign", "sum", "last", "region", "a_rather_long_name_of_an_argument"]);
    let argument = move || {
        prop_oneof![
            literal().prop_map(Argument::Plain),
            (key(), literal()).prop_map(|(key, value)| Argument::Named(key, value)),
            (key(), op(), literal()).prop_map(|(key, op, value)| Argument::Condition(key, op, value)),
        ]
    };
    let leaf = prop_oneof![
        field().prop_map(ExprKind::Field),
        (field(), op(), literal()).prop_map(|(name, op, value)| ExprKind::Compare(name, op, value)),
        (field(), proptest::collection::vec(literal(), 1..12)).prop_map(|(name, values)| ExprKind::In(name, values)),
        (field(), literal()).prop_map(|(name, value)| ExprKind::Contains(name, value)),
        field().prop_map(ExprKind::IsSet),
        (field(), stretch()).prop_map(|(name, stretch)| ExprKind::Recurs(name, stretch)),
        (call(), proptest::collection::vec(argument(), 0..6)).prop_map(|(name, arguments)| ExprKind::Call(name, arguments)),
    ]
    .prop_map(made);
    leaf.prop_recursive(4, 40, 5, move |inner| {
        let filter =
            inner.clone().prop_map(|condition| Argument::Where(Name { text: "where".to_owned(), span: SPAN }, Box::new(condition)));
        let arguments = proptest::collection::vec(prop_oneof![3 => argument(), 1 => filter], 1..5);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 2..6).prop_map(ExprKind::And),
            proptest::collection::vec(inner.clone(), 2..6).prop_map(ExprKind::Or),
            inner.prop_map(|term| ExprKind::Not(Box::new(term))),
            (call(), arguments).prop_map(|(name, arguments)| ExprKind::Call(name, arguments)),
        ]
        .prop_map(made)
    })
    .boxed()
}

/// The expression without its places.
fn bare(expr: &Expr) -> Expr {
    let named = |name: &Name| Name { text: name.text.clone(), span: SPAN };
    let value = |literal: &Literal| Literal { kind: literal.kind.clone(), span: SPAN };
    let all = |terms: &[Expr]| terms.iter().map(bare).collect();
    let kind = match &expr.kind {
        ExprKind::And(terms) => ExprKind::And(all(terms)),
        ExprKind::Or(terms) => ExprKind::Or(all(terms)),
        ExprKind::Not(inner) => ExprKind::Not(Box::new(bare(inner))),
        ExprKind::Field(name) => ExprKind::Field(named(name)),
        ExprKind::Compare(name, op, literal) => ExprKind::Compare(named(name), *op, value(literal)),
        ExprKind::In(name, literals) => ExprKind::In(named(name), literals.iter().map(value).collect()),
        ExprKind::Contains(name, literal) => ExprKind::Contains(named(name), value(literal)),
        ExprKind::IsSet(name) => ExprKind::IsSet(named(name)),
        ExprKind::Recurs(name, stretch) => ExprKind::Recurs(named(name), *stretch),
        ExprKind::Call(name, arguments) => {
            let arguments = arguments.iter().map(|argument| match argument {
                Argument::Plain(literal) => Argument::Plain(value(literal)),
                Argument::Named(key, literal) => Argument::Named(named(key), value(literal)),
                Argument::Where(key, condition) => Argument::Where(named(key), Box::new(bare(condition))),
                Argument::Condition(key, op, literal) => Argument::Condition(named(key), *op, value(literal)),
            });
            ExprKind::Call(named(name), arguments.collect())
        }
        ExprKind::Unreadable => ExprKind::Unreadable,
    };
    Expr { kind, span: SPAN }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]
    #[test]
    fn canonical_form_and_layout_read_back_as_the_same_rule(expr in expr()) {
        let canonical = expr.to_string();
        let again = parse(&canonical).map_err(|errors| TestCaseError::fail(format!("{canonical}: {errors:?}")))?;
        prop_assert_eq!(bare(&again), expr.clone(), "{}", structure(&again));
        let laid_out = format(&expr);
        let again = parse(&laid_out).map_err(|errors| TestCaseError::fail(format!("{laid_out}: {errors:?}")))?;
        prop_assert_eq!(&bare(&again), &expr, "{}", laid_out);
        prop_assert_eq!(format(&again), laid_out, "formatting twice");
    }

    #[test]
    fn any_row_of_pieces_of_calls_is_either_understood_or_refused_within_its_bounds(
        pieces in proptest::collection::vec(select(PIECES.to_vec()), 0..25),
    ) {
        let source = pieces.join(" ");
        if let Err(errors) = rule(&source, &shop()) {
            prop_assert!(!errors.is_empty());
            prop_assert!(errors.iter().all(|error| source.get(error.span.clone()).is_some() && !error.hint.is_empty()));
        }
    }
}

/// Pieces from which nonsense about the past is made.
const PIECES: &[&str] = &[
    "did(",
    "ordered(",
    "engagement(",
    "subscribed(",
    "region(",
    "frozen(",
    "random(",
    "(",
    ")",
    ")",
    ",",
    "'visit'",
    "'shop'",
    "'EU'",
    "where",
    ":",
    "page",
    "duration",
    "sum",
    "count",
    "within",
    "since",
    "stage",
    "engagement.",
    "score",
    "birthday",
    "country",
    "in",
    "next",
    "last",
    "7",
    "days",
    "weeks",
    "30d",
    "is",
    "today",
    "not",
    "and",
    "or",
    "=",
    ">=",
    "100",
    "1.23456",
    "'x'",
    "the",
    "vip",
    "10%",
];
