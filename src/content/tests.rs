//! From a definition to a mail, as a campaign does it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::campaign::Definition;
use crate::config::{AttributeType, BodyKind, Sender};
use crate::contact::{AttributeValue, Date, Schema};

struct Links;

impl LinkMaker for Links {
    fn unsubscribe(&self) -> String {
        "https://n.example/u/U?a=1&b=2".to_owned()
    }
    fn preferences(&self) -> String {
        "https://n.example/p/P".to_owned()
    }
    fn view(&self) -> String {
        "https://n.example/v/V".to_owned()
    }
    fn open_pixel(&self) -> Option<String> {
        Some("https://n.example/o/O.gif".to_owned())
    }
    fn track(&self, position: i64, url: &str) -> String {
        format!("https://n.example/c/{position}?to={url}")
    }
}

fn schema() -> Schema {
    use AttributeType::*;
    let types = [("city", Text), ("age", Number), ("vip", Boolean), ("birthday", Date), ("interests", List), ("website", Text)];
    Schema::new(&types.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect::<BTreeMap<_, _>>())
}

fn prepare(definition: &Definition, schema: &Schema) -> Result<Prepared, Vec<ContentProblem>> {
    super::prepare(definition, schema, &FrameSettings::default())
}

fn definition(layout: &str, body: &str) -> Definition {
    Definition {
        campaign: "weekly".to_owned(),
        topic: "tea-letter".to_owned(),
        topic_name: "Tea letter".to_owned(),
        audience: None,
        subject: "{{ contact.first_name | default('Tea lover') }}, this week's leaves".to_owned(),
        preheader: Some("Three new oolongs for {{ contact.city | default('you') }}".to_owned()),
        layout: layout.to_owned(),
        layout_text: None,
        body: body.to_owned(),
        body_kind: BodyKind::Markdown,
        sender: Sender {
            name: "Tea House".to_owned(),
            email: "letters@tea.example".to_owned(),
            reply_to: None,
            postal_address: "1 Leaf Street, Taipei".to_owned(),
        },
        track_opens: true,
        track_clicks: true,
        delivery: Default::default(),
        topic_frame: Default::default(),
        attribution: Default::default(),
        link_parameters: Default::default(),
        honeypot: false,
    }
}

fn contact() -> Contact {
    Contact {
        id: 1,
        email: "Ana@tea.example".to_owned(),
        email_key: "ana@tea.example".to_owned(),
        first_name: Some("Ana".to_owned()),
        last_name: None,
        locale: Some("en".to_owned()),
        timezone: Some("Asia/Taipei".to_owned()),
        phone: None,
        external_id: Some("C 7&8".to_owned()),
        attributes: BTreeMap::from([
            ("age".to_owned(), AttributeValue::Number(42.0)),
            ("vip".to_owned(), AttributeValue::Boolean(true)),
            ("birthday".to_owned(), AttributeValue::Date(Date::parse("1990-05-17").unwrap())),
            ("interests".to_owned(), AttributeValue::List(vec!["oolong".to_owned(), "pu'er & co".to_owned()])),
        ]),
    }
}

fn now() -> Time {
    Time::parse("2026-12-01T18:30:00Z").unwrap()
}

fn try_write(definition: &Definition, contact: &Contact) -> Result<Mail, RenderError> {
    prepare(definition, &schema()).unwrap().render(&Recipient { contact, links: &Links, grounds: None, now: now() })
}

fn write(definition: &Definition, contact: &Contact) -> Mail {
    try_write(definition, contact).unwrap()
}

/// The HTML part of a Markdown body in the plain layout, from its first paragraph on.
fn body(source: &str) -> String {
    write(&definition("plain", source), &contact()).html
}

fn text(source: &str) -> String {
    let text = write(&definition("plain", source), &contact()).text;
    text.split("\n\nYou receive this email").next().unwrap().to_owned()
}

fn problems(definition: &Definition) -> Vec<(Part, String, String)> {
    prepare(definition, &schema())
        .expect_err("there are problems")
        .into_iter()
        .map(|problem| {
            let source = match problem.part {
                Part::Subject => &definition.subject,
                Part::Preheader => definition.preheader.as_ref().unwrap(),
                Part::Body => &definition.body,
                Part::Layout => definition.layout_text.as_ref().unwrap_or(&definition.layout),
                Part::Parameter(index) => definition.link_parameters.parameters.values().nth(index).unwrap(),
            };
            (
                problem.part,
                problem.span.map(|span| source[span].to_owned()).unwrap_or_default(),
                format!("{}; {}", problem.message, problem.hint),
            )
        })
        .collect()
}

const NEWSLETTER: &str = "# Fresh leaves, {{ contact.first_name | default('friend') }}

Spring has come to **Alishan**. [Read the story](https://tea.example/story?a=1&b=2).

{% if contact.vip %}
Your table is [reserved](https://tea.example/table?c={{ contact.external_id }}).
{% endif %}

{% for interest in contact.interests %}
- {{ interest | title }}
{% endfor %}
- and more

| Tea | Price |
|---|--:|
| Oolong | 12 |
| Pu'er | 20 |

> The cup is the message.

**[Order now](https://tea.example/shop)**

![Tea garden](https://tea.example/garden.jpg)
";

#[test]
fn a_newsletter_in_english() {
    let mail = write(&definition("newsletter", NEWSLETTER), &contact());
    insta::with_settings!({ prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("newsletter_en.html", mail.html);
        insta::assert_snapshot!("newsletter_en.txt", mail.text);
    });
    assert_eq!((mail.subject.as_str(), mail.preheader.as_str()), ("Ana, this week's leaves", "Three new oolongs for you"));
}

#[test]
fn a_newsletter_in_traditional_chinese() {
    let mut definition = definition("newsletter", "# 春茶到了\n\n{{ contact.first_name }} 您好，[新茶](https://tea.example/新茶)上市。");
    definition.topic_name = "茶訊".to_owned();
    let person = Contact { first_name: Some("小明".to_owned()), locale: Some("zh_TW".to_owned()), ..contact() };
    let mail = write(&definition, &person);
    insta::with_settings!({ prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("newsletter_zh_hant.html", mail.html);
        insta::assert_snapshot!("newsletter_zh_hant.txt", mail.text);
    });
}

#[test]
fn every_layout_and_kind_of_body_carries_the_frame() {
    let mjml =
        "<mjml><mj-body><mj-section><mj-column><mj-text>Hi {{ contact.first_name }}</mj-text></mj-column></mj-section></mj-body></mjml>";
    let bodies = [
        (BodyKind::Markdown, "Hi {{ contact.first_name }}"),
        (BodyKind::Html, "<p>Hi {{ contact.first_name }}</p>"),
        (
            BodyKind::Html,
            "<!DOCTYPE html><html><head><style>p { color: red }</style></head><body><p>Hi {{ contact.first_name }}</p></body></html>",
        ),
        (BodyKind::Mjml, mjml),
    ];
    for layout in LAYOUTS {
        for (kind, source) in bodies {
            let mail = write(&Definition { body_kind: kind, ..definition(layout, source) }, &contact());
            for expected in [
                "lang=\"en\"",
                "Hi Ana",
                "https://n.example/u/U?a=1&amp;b=2",
                "https://n.example/p/P",
                "https://n.example/v/V",
                "1 Leaf Street, Taipei",
                "Tea House",
                "Three new oolongs for you",
                "You receive this email because you subscribed to Tea letter.",
                "dir=\"auto\"",
            ] {
                assert!(mail.html.contains(expected), "{layout} {kind:?} lacks {expected}:\n{}", mail.html);
            }
            assert_eq!(mail.html.matches("https://n.example/o/O.gif").count(), 1);
            assert!(mail.html.find("O.gif").unwrap() < mail.html.find("</body>").unwrap());
            assert!(mail.html.find("Three new").unwrap() < mail.html.find("Hi Ana").unwrap());
            for expected in [
                "Hi Ana",
                "Unsubscribe (https://n.example/u/U?a=1&b=2)",
                "https://n.example/v/V",
                "https://n.example/p/P",
                "1 Leaf Street, Taipei",
            ] {
                assert!(mail.text.contains(expected), "{layout} {kind:?} lacks {expected}:\n{}", mail.text);
            }
            assert!(!mail.text.contains("Three new") && !mail.text.contains("O.gif"), "{}", mail.text);
            assert!(!mail.html.contains("zqaj") && !mail.text.contains("zqaj"));
        }
    }
}

#[test]
fn values_are_escaped_in_html_and_plain_elsewhere() {
    let evil = "<script>alert(\"x\")</script>&'{{ contact.email }}{% raw %}";
    let mut definition = definition("newsletter", "Hi {{ contact.first_name }} [x](https://a.example \"{{ contact.first_name }}\")");
    definition.subject = "{{ contact.first_name }}".to_owned();
    let mail = write(&definition, &Contact { first_name: Some(evil.to_owned()), ..contact() });
    assert!(!mail.html.contains("<script"), "{}", mail.html);
    let escaped = "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;&#39;{{ contact.email }}{% raw %}";
    assert!(mail.html.contains(&format!("Hi {escaped}")), "{}", mail.html);
    assert!(mail.html.contains(&format!("title=\"{escaped}\"")), "{}", mail.html);
    assert_eq!(mail.subject, evil);
    assert!(mail.text.contains(&format!("Hi {evil}")), "{}", mail.text);
}

#[test]
fn a_name_cannot_add_a_header() {
    let mut definition = definition("plain", "x");
    definition.preheader = Some("{{ contact.first_name }}".to_owned());
    let mail = write(&definition, &Contact { first_name: Some("A\r\nBcc: all@x.example\0\u{2028}B\u{202e}C".to_owned()), ..contact() });
    assert_eq!(mail.subject, "A Bcc: all@x.exampleBC, this week's leaves".replace("exampleBC", "example BC"));
    assert_eq!(mail.preheader, "A Bcc: all@x.example BC");
}

#[test]
fn naughty_values_come_out_harmless_everywhere() {
    let naughty = [
        "\u{1}0\u{3}javascript:alert(1)\u{2}",
        "\u{1}pixel\u{2}",
        "zqaj0x",
        "{{ 7*7 }}",
        "{% for x in range(9) %}",
        "{#",
        "\u{feff}",
        "\u{0}",
        "\u{1b}[2J",
        "'; DROP TABLE contact;--",
        "=cmd|' /C calc'!A0",
        "%s%n",
        "../../etc/passwd",
        "\u{202e}txt.exe",
        "Ω≈ç√∫",
        "田中さん",
        "🏳\u{200d}🌈",
        "a\u{300}\u{301}",
        "<img src=x onerror=alert(1)>",
        "\"><svg/onload=alert(1)>",
        "]]>",
        "-->",
        "<!--",
        "&lt;",
        "&amp;amp;",
        "javascript:alert(1)",
        "${7*7}",
        "\\",
        "'",
        "undefined",
        "none",
        "true",
        "1e400",
        "-0",
        "\n\n\n.\r\n.\r\n",
    ];
    let source = "<p title=\"{{ contact.city }}\">A{{ contact.city }}B</p><a href=\"https://a.example/?q={{ contact.city }}\">C</a>\
                  <!-- {{ contact.city }} --><td>{% if contact.city %}D{{ contact.city | upper }}E{% endif %}";
    let prepared = prepare(&Definition { body_kind: BodyKind::Html, ..definition("newsletter", source) }, &schema()).unwrap();
    let skeleton = |html: &str| html.matches('<').count();
    let render = |city: &str| {
        let person = Contact { attributes: BTreeMap::from([("city".to_owned(), AttributeValue::Text(city.to_owned()))]), ..contact() };
        prepared.render(&Recipient { contact: &person, links: &Links, grounds: None, now: now() }).unwrap()
    };
    let harmless = render("x");
    for value in naughty {
        let mail = render(value);
        assert_eq!(skeleton(&mail.html), skeleton(&harmless.html), "{value:?} changed the markup:\n{}", mail.html);
        assert_eq!(mail.html.matches("<a ").count(), harmless.html.matches("<a ").count());
        assert!(!mail.html.contains("href=\"javascript:") && !mail.html.contains('\u{0}'), "{value:?}");
        for part in [&mail.html, &mail.text] {
            assert!(!part.chars().any(|c| c.is_ascii_control() && c != '\n' && c != '\t'), "{value:?}");
        }
    }
}

#[test]
fn links_are_tracked_with_their_own_addresses() {
    let definition = definition(
        "plain",
        "[One & two](https://a.example/?x=1&y=2) [mail](mailto:a@b.example) [call](tel:+886) [top](#top) \
         [off]({{ links.unsubscribe }}) [you](https://b.example/?id={{ contact.external_id }}&u={{ contact.email }}) \
         [![Garden](https://a.example/g.png)](https://c.example)",
    );
    let prepared = prepare(&definition, &schema()).unwrap();
    let link = |position, url: &str, name: &str| Link { position, url: url.to_owned(), name: name.to_owned() };
    assert_eq!(
        prepared.links(),
        [
            link(0, "https://a.example/?x=1&y=2", "One & two"),
            link(1, "https://b.example/?id={{ contact.external_id }}&u={{ contact.email }}", "you"),
            link(2, "https://c.example", "Garden"),
        ]
    );
    let mail = write(&definition, &contact());
    for expected in [
        "href=\"https://n.example/c/0?to=https://a.example/?x=1&amp;y=2\"",
        "href=\"https://n.example/c/1?to=https://b.example/?id=C%207%268&amp;u=Ana%40tea.example\"",
        "href=\"mailto:a@b.example\"",
        "href=\"tel:+886\"",
        "href=\"#top\"",
        "<a href=\"https://n.example/u/U?a=1&amp;b=2\" style=\"color: #1558b0;\">off</a>",
        "src=\"https://a.example/g.png\"",
    ] {
        assert!(mail.html.contains(expected), "{expected} not in\n{}", mail.html);
    }
    assert!(mail.text.contains("One & two (https://n.example/c/0?to=https://a.example/?x=1&y=2)"), "{}", mail.text);
    assert!(mail.text.contains("you (https://n.example/c/1?to=https://b.example/?id=C%207%268&u=Ana%40tea.example)"), "{}", mail.text);
    assert!(mail.text.contains("mail (a@b.example)"), "{}", mail.text);
}

#[test]
fn without_tracking_links_and_opens_stay_untouched() {
    let mut definition = definition("plain", "[a](https://a.example/?x=1&y=2) [b](https://b.example/?i={{ contact.external_id }})");
    (definition.track_clicks, definition.track_opens) = (false, false);
    let prepared = prepare(&definition, &schema()).unwrap();
    assert!(prepared.links().is_empty());
    let html = write(&definition, &contact()).html;
    assert!(html.contains("href=\"https://a.example/?x=1&amp;y=2\"") && html.contains("href=\"https://b.example/?i=C%207%268\""), "{html}");
    assert!(!html.contains("/o/O.gif"));
}

#[test]
fn an_address_that_is_a_field_must_lead_to_the_web() {
    let definition = definition("plain", "[site]({{ contact.website }})");
    let with = |website: &str| {
        let attributes = BTreeMap::from([("website".to_owned(), AttributeValue::Text(website.to_owned()))]);
        try_write(&definition, &Contact { attributes, ..contact() })
    };
    assert!(with("https://shop.example/a b").unwrap().html.contains("/c/0?to=https://shop.example/a%20b\""));
    for bad in ["javascript:alert(1)", " jAvAsCrIpT:alert(1)", "data:text/html,<script>", "", "//evil.example", "vbscript:x"] {
        assert_eq!(with(bad).unwrap_err().part, Part::Body, "{bad}");
    }
    assert!(try_write(&definition, &contact()).unwrap_err().message.contains("http or https"));
    let fixed = prepare(&Definition { body: "[a](javascript:alert(1))".to_owned(), ..definition.clone() }, &schema()).unwrap_err();
    assert!(fixed[0].message.contains("`javascript:`") && fixed[0].span == Some(4..23), "{fixed:?}");
}

#[test]
fn links_in_loops_and_macros_are_personal() {
    let html = body(
        "{% macro go(where, label) %}<a href=\"https://a.example/{{ where }}\">{{ label }}</a>{% endmacro %}\n\n\
         {% for i in contact.interests %}[{{ i }}](https://a.example/?q={{ i }}) {% endfor %} {{ go('x/y', 'there <') }}",
    );
    let html = html.replace(" style=\"color: #1558b0;\"", "");
    assert!(html.contains("to=https://a.example/?q=oolong\">oolong</a>"), "{html}");
    assert!(html.contains("to=https://a.example/?q=pu%27er%20%26%20co\">pu&#39;er &amp; co</a>"), "{html}");
    assert!(html.contains("to=https://a.example/x%2Fy\">there &lt;</a>"), "{html}");
    assert!(!html.contains("<p style=\"margin: 0 0 18px;\"></p>"), "{html}");
}

#[test]
fn a_field_that_is_not_set_is_empty_and_one_that_does_not_exist_is_an_error() {
    let html = body(
        "A[{{ contact.last_name }}][{{ contact.city | default('none') }}][{% if contact.city %}y{% else %}n{% endif %}][{{ contact.city | upper }}]\
                     [{% for x in contact.interests %}{{ x }},{% endfor %}][{{ contact.phone or 'p' }}][{% if contact.city == 'x' %}1{% else %}2{% endif %}]",
    );
    assert!(html.contains("A[][none][n][][oolong,pu&#39;er &amp; co,][p][2]"), "{html}");
    let nobody = Contact { attributes: BTreeMap::new(), ..contact() };
    let mail = write(
        &definition(
            "plain",
            "B{% for x in contact.interests %}{{ x }}{% endfor %}{{ contact.birthday | date }}{{ contact.vip }}{{ contact.age }}C{% if contact.age and contact.age >= 18 %}old{% endif %}",
        ),
        &nobody,
    );
    assert!(mail.html.contains("BC"), "{}", mail.html);
    let dynamic = try_write(&definition("plain", "{{ contact['no' ~ 'pe'] }}"), &contact()).unwrap_err();
    assert_eq!(dynamic.part, Part::Body);
    assert!(dynamic.message.contains("undefined"), "{dynamic}");
}

#[test]
fn an_unknown_birthday_is_not_today() {
    let source = "A{% if contact.birthday.month == now.month %}now{% endif %}[{{ contact.birthday | default('-') }}][{{ contact.birthday is defined }}]\
        [{% if contact.birthday and contact.birthday < now %}x{% endif %}][{{ contact.birthday }}][{{ contact.city is defined }}]B";
    let nobody = Contact { attributes: BTreeMap::new(), ..contact() };
    assert!(write(&definition("plain", source), &nobody).text.starts_with("A[-][false][][][false]B"));
    assert!(write(&definition("plain", source), &contact()).text.starts_with("A[1990-05-17][true][x][1990-05-17][false]B"));
}

#[test]
fn a_layout_that_shows_the_preheader_gets_no_second_one() {
    let mut definition = definition("mine", "x");
    definition.layout_text =
        Some("<body><i>{{ preheader }}</i>{{ content }}<a href=\"{{ links.unsubscribe }}\">Leave</a></body>".to_owned());
    assert_eq!(write(&definition, &contact()).html.matches("Three new oolongs").count(), 1);
}

#[test]
fn an_empty_name_takes_the_default() {
    let mail = write(&definition("plain", "x"), &Contact { first_name: Some(" ".to_owned()), ..contact() });
    assert_eq!(mail.subject, "Tea lover, this week's leaves");
}

#[test]
fn numbers_dates_and_moments_print_as_people_write_them() {
    let html = body(
        "[{{ contact.age }}][{{ contact.age / 8 }}][{{ contact.birthday }}][{{ contact.birthday | date('%-d %B') }}][{{ contact.birthday.year }}]\
         [{{ now }}][{{ now | date('%Y年%-m月%-d日') }}][{{ now | date }}][{{ contact.birthday < now }}][{{ contact.vip }}]",
    );
    assert!(
        html.contains("[42][5.25][1990-05-17][17 May][1990][2026-12-02T02:30:00+08:00][2026年12月2日][2026-12-02][true][true]"),
        "{html}"
    );
    assert!(try_write(&definition("plain", "{{ contact.first_name | date }}"), &contact()).unwrap_err().message.contains("needs a date"));
}

#[test]
fn all_mistakes_are_found_at_once_with_their_places() {
    let mut definition = definition(
        "plain",
        "{{ contact.frist_name }} {{ contact['cty'] | uppr }}\n{% if contact.vip is definde %}{{ first_name }}{% endif %}{{ now() | indent(9) }}\
        {% include 'x' %}{{ nonsense(1) }}{{ links.unsub }}{{ contact.city.upper() }}{{ contact.city | safe }}",
    );
    definition.subject = "Hi {{ contact.first_name }".to_owned();
    definition.preheader = Some("{{ product.name }}".to_owned());
    definition.layout = "newsleter".to_owned();
    let found = problems(&definition);
    let brief: Vec<_> = found.iter().map(|(part, place, message)| (*part, place.as_str(), message.as_str())).collect();
    insta::assert_debug_snapshot!(brief);
}

#[test]
fn a_syntax_error_names_its_place() {
    let found = prepare(&definition("plain", "one\ntwo {{ contact.city | }}"), &schema()).unwrap_err();
    assert_eq!((found.len(), found[0].part), (1, Part::Body));
    assert!(found[0].span.as_ref().is_some_and(|span| span.start >= 8), "{found:?}");
    let found = prepare(&definition("plain", "{% if contact.vip %}never closed"), &schema()).unwrap_err();
    assert!(found[0].message.starts_with("template syntax"), "{found:?}");
}

#[test]
fn places_fit_files_with_windows_line_ends() {
    let definition = definition("plain", "one\r\ntwo\r\n\0{{ contact.nope }}");
    assert_eq!(problems(&definition)[0].1, "nope");
}

#[test]
fn every_allowed_filter_and_test_exists() {
    let environment = environment::sandbox();
    for filter in check::FILTERS {
        let error = environment.render_str(&format!("{{{{ 'a' | {filter} }}}}"), ()).err();
        assert!(error.as_ref().is_none_or(|error| error.kind() != minijinja::ErrorKind::UnknownFilter), "{filter}");
    }
    for test in check::TESTS {
        let error = environment.render_str(&format!("{{{{ 'a' is {test} }}}}"), ()).err();
        assert!(error.as_ref().is_none_or(|error| error.kind() != minijinja::ErrorKind::UnknownTest), "{test}");
    }
}

#[test]
fn a_template_cannot_eat_the_machine() {
    for greedy in [
        "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='xxxxxxxxxxxxxxxx') %}{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{{ 'x' * 100000000 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ range(100000) | list | join('xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx') }}",
        "{{ 'aaaaaaaaaaaaaaaaaaaa' | replace('a', 'x' * 1000000) }}",
        "{% for a in range(20000) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' }}{% endfor %}",
        "{{ now | date('%999999999Y') }}",
    ] {
        assert!(try_write(&definition("plain", greedy), &contact()).is_err(), "{greedy}");
    }
}

#[test]
fn a_layout_of_ones_own_holds_the_body_and_must_let_people_leave() {
    let layout = "<html><head><title>{{ subject }}</title><style>p { color: #123456 } @media (max-width: 600px) { p { color: red } }</style></head>\
                  <body><h1>{{ campaign.name }}</h1>{{ content }}<a href=\"{{ links.unsubscribe }}\">Leave {{ topic.name }}</a></body></html>";
    let mut definition = definition("mine", "Hi {{ contact.first_name }}");
    definition.layout_text = Some(layout.to_owned());
    let mail = write(&definition, &contact());
    for expected in [
        "<title>Ana, this week&#39;s leaves</title>",
        "<h1>weekly</h1>",
        "color: #123456",
        "@media (max-width: 600px)",
        "Hi Ana</p>",
        "href=\"https://n.example/u/U?a=1&amp;b=2\">Leave Tea letter",
        "lang=\"en\"",
    ] {
        assert!(mail.html.contains(expected), "{expected} not in\n{}", mail.html);
    }
    definition.layout_text = Some("<body><!-- {{ links.unsubscribe }} --><a href=\"{{ links.unsubscribe }}\">x</a></body>".to_owned());
    assert!(problems(&definition)[0].2.contains("0 times"));
    definition.layout_text = Some("<body>{{ content | nope }}</body>".to_owned());
    assert_eq!(problems(&definition)[0].1, "nope");
}

#[test]
fn a_layout_of_ones_own_gets_what_it_does_not_say_to_everybody() {
    let why = "You receive this email because you subscribed to Tea letter.";
    let notice = "You have the right to object";
    let leave = "https://n.example/u/U";
    let address = "1 Leaf Street, Taipei";
    let counts = |layout: &str| {
        let definition = Definition { layout_text: Some(layout.to_owned()), ..definition("mine", "Hi") };
        let mail = write(&definition, &contact());
        let of = |part: &str| [why, notice, leave, address].map(|what| part.matches(what).count());
        (of(&mail.html), of(&mail.text))
    };
    let once = ([1; 4], [1; 4]);
    let say = |what: &str| format!("<body>{{{{ content }}}}{what}</body>");
    assert_eq!(counts(&say("")), once, "nothing");
    assert_eq!(counts(&say("<p>{{ frame.why }}</p><p>{{ frame.notice }}</p>")), once, "the frame's words");
    assert_eq!(counts(&say("<a href=\"{{ links.unsubscribe }}\">Leave</a><p>{{ sender.postal_address }}</p>")), once, "link and address");
    assert_eq!(counts(&say("<p>1 Leaf Street, Taipei</p>")), once, "the address as text");
    // What stands under a condition reaches not everybody, and what stands in a comment nobody.
    let hidden = say("{% if contact.vip %}<a href=\"{{ links.unsubscribe }}\">Leave</a>{% endif %}<!-- {{ frame.why }} -->");
    let (html, text) = counts(&hidden);
    assert_eq!((html[2], text[2], text[0]), (2, 2, 1));
}

#[test]
fn a_mail_says_since_when_and_where_its_reader_subscribed() {
    let subscribed =
        |source: &str, double| Grounds { since: Time::parse("2026-11-30T20:00:00Z").unwrap(), source: source.to_owned(), double };
    let say = |grounds: &Grounds, locale: &str| {
        let person = Contact { locale: Some(locale.to_owned()), ..contact() };
        let prepared = prepare(&definition("plain", "x"), &schema()).unwrap();
        let recipient = Recipient { contact: &person, links: &Links, grounds: Some(grounds), now: now() };
        let mail = prepared.render(&recipient).unwrap();
        let line = mail.text.lines().find(|line| line.contains("Tea letter")).unwrap().to_owned();
        assert!(mail.html.contains(&line.replace('<', "&lt;").replace('>', "&gt;")), "{line}");
        line
    };
    let import = subscribed("shop checkout 2026 <b>", false);
    assert_eq!(
        say(&import, "en"),
        "You receive this email because you subscribed to Tea letter on 1 December 2026 at shop checkout 2026 <b>."
    );
    assert_eq!(say(&import, "zh-TW"), "您收到這封信，是因為您於2026年12月1日透過「shop checkout 2026 <b>」訂閱了「Tea letter」。");
    assert_eq!(say(&subscribed("cli", false), "de"), "You receive this email because you subscribed to Tea letter on 1 December 2026.");
    assert_eq!(
        say(&subscribed("fair", true), "zh-CN"),
        "您收到这封邮件，是因为您通过“fair”订阅了“Tea letter”，并于2026年12月1日通过邮件确认。"
    );
}

#[test]
fn advertising_is_labelled_for_whom_the_law_wants_it() {
    let mut definition = definition("newsletter", "x");
    definition.subject = "{{ contact.first_name | default('Tea') }}".to_owned();
    let subject = |definition: &Definition, locale: &str| {
        let person = Contact { locale: Some(locale.to_owned()), ..contact() };
        let mail = write(definition, &person);
        assert!(mail.html.contains(&format!("<title>{}</title>", mail.subject)), "{}", mail.html);
        let refuse = mail.text.contains("letters@tea.example");
        (mail.subject, refuse)
    };
    assert_eq!(subject(&definition, "zh-CN"), ("Ana".to_owned(), false), "no advertising");
    definition.topic_frame.advertising = true;
    assert_eq!(subject(&definition, "zh-CN"), ("广告 Ana".to_owned(), true));
    assert_eq!(subject(&definition, "en-CN"), ("AD Ana".to_owned(), true));
    assert_eq!(subject(&definition, "zh-TW"), ("Ana".to_owned(), false));
    definition.subject = "【广告】{{ contact.first_name }}".to_owned();
    assert_eq!(subject(&definition, "zh-CN"), ("【广告】Ana".to_owned(), true));
}

#[test]
fn mjml_is_rendered_with_loops_conditions_and_fields() {
    let source = "<mjml><mj-head><mj-preview>{{ contact.city }}</mj-preview><mj-style>.x { color: red }</mj-style></mj-head><mj-body>\n\
      {% if contact.vip %}<mj-section><mj-column><mj-button href=\"https://a.example/?i={{ contact.external_id }}\">VIP</mj-button></mj-column></mj-section>{% endif %}\n\
      <mj-section><mj-column><mj-text>Hi {{ contact.first_name }}</mj-text>{% for i in contact.interests %}<mj-text>* {{ i }}</mj-text>{% endfor %}\
      <mj-table>{% for i in contact.interests %}<tr><td>{{ i }}</td></tr>{% endfor %}</mj-table></mj-column></mj-section></mj-body></mjml>";
    let definition = Definition { body_kind: BodyKind::Mjml, ..definition("newsletter", source) };
    let mail = write(&definition, &contact());
    for expected in
        ["VIP", "Hi Ana", "* oolong", "* pu&#39;er &amp; co", ">oolong</td></tr>", "to=https://a.example/?i=C%207%268", "@media"]
    {
        assert!(mail.html.contains(expected), "{expected} not in\n{}", mail.html);
    }
    assert!(mail.text.contains("* oolong"), "{}", mail.text);
    let plain = Contact { attributes: BTreeMap::new(), ..contact() };
    assert!(!write(&definition, &plain).html.contains("VIP"));

    let broken = Definition { body: "<mjml><mj-body>\n{{ contact.city }}<mj-nonsense/></mj-body></mjml>".to_owned(), ..definition.clone() };
    let found = problems(&broken);
    assert!(found[0].1.contains("mj-nonsense"), "{found:?}");
    for (source, place) in [
        ("<mjml><mj-body>{# c #}\n{{ contact.city }} <mj-section></mj-body></mjml>", "mj-section"),
        ("<mjml>{{ contact.city }}<mj-body><mj-colum/></mj-body></mjml>", "mj-colum"),
        ("<mjml><mj-head><mj-include path=\"/etc/passwd\"/></mj-head></mjml>", ""),
    ] {
        let found = problems(&Definition { body: source.to_owned(), ..definition.clone() });
        assert!(found[0].1.contains(place), "{found:?}");
    }
    assert!(prepare(&Definition { body: "<mjml><mj-body>".to_owned(), ..definition }, &schema()).is_err());
}

#[test]
fn blocks_between_rows_stay_there_in_both_parts() {
    let source = "<table><tr><th>Tea</th><th>Cup</th></tr>{% for i in contact.interests %}<tr><td>{{ i }}</td><td>{{ loop.index }}</td></tr>{% endfor %}</table><p>End</p>";
    let mail = write(&Definition { body_kind: BodyKind::Html, ..definition("plain", source) }, &contact());
    assert!(mail.html.contains("</tr><tr><td"), "{}", mail.html);
    assert!(mail.text.starts_with("Tea | Cup\noolong | 1\npu'er & co | 2\n\nEnd\n"), "{}", mail.text);
}

#[test]
fn the_text_part_reads_well() {
    let source = "# Title\n\nOne *two* \\\nthree   four\n\n1. a\n2. b\n   - c\n   - d\n\n{% for i in contact.interests %}\n- {{ i }}\n{% endfor %}\n\n> said\n> twice\n\n```\nx  y\n  z\n```\n\n---\n\n\
        {% if contact.city %}\nhidden\n{% endif %}\n![Alt](https://a.example/i.png) <https://b.example>\n\nend{% if contact.vip %} vip{% endif %}.";
    insta::assert_snapshot!(text(source));
}

#[test]
fn what_looks_like_one_of_our_words_is_only_text() {
    let html = body("zqaj0x ZQAJ1X zqaj2x {{ contact.first_name }} zqbj0x");
    assert!(html.contains("zqaj0x ZQAJ1X zqaj2x Ana zqbj0x"), "{html}");
}

#[test]
fn an_entity_does_not_make_a_tag() {
    let mail =
        write(&Definition { body_kind: BodyKind::Html, ..definition("plain", "<p>&#123;{ contact.email }} {&#37; if %}</p>") }, &contact());
    assert!(mail.html.contains("{{ contact.email }} {% if %}"), "{}", mail.html);
}

#[test]
fn a_mail_that_grows_too_long_is_refused() {
    let long = Contact { first_name: Some("x".repeat(3_000)), ..contact() };
    assert_eq!(try_write(&definition("plain", "x"), &long).unwrap_err().part, Part::Subject);
}

#[test]
fn a_layout_of_ones_own_takes_a_body_in_mjml() {
    let mut definition = definition(
        "mine",
        "<mjml><mj-body><mj-section><mj-column><mj-text>Hi {{ contact.first_name }}</mj-text></mj-column></mj-section></mj-body></mjml>",
    );
    definition.body_kind = BodyKind::Mjml;
    definition.layout_text =
        Some("<html><head></head><body><h1>Top</h1>{{ content }}<a href=\"{{ links.unsubscribe }}\">Leave</a></body></html>".to_owned());
    let mail = write(&definition, &contact());
    assert_eq!(mail.html.matches("<body").count(), 1);
    assert!(mail.html.contains("Hi Ana") && mail.html.contains("@media") && mail.html.contains("<h1>Top"), "{}", mail.html);
    assert!(mail.text.starts_with("Top\n\nHi Ana\n"), "{}", mail.text);
}

#[test]
fn markup_without_bottom_is_refused() {
    for (kind, source) in [
        (BodyKind::Html, "<div>".repeat(100_000)),
        (BodyKind::Html, "<table><tr><td>".repeat(50_000)),
        (BodyKind::Html, "<b>".repeat(100_000)),
        (BodyKind::Markdown, format!("{} x", ">".repeat(50_000))),
        (BodyKind::Mjml, format!("<mjml><mj-body>{}", "<mj-wrapper>".repeat(50_000))),
        (BodyKind::Mjml, format!("<mjml><mj-body><mj-raw>{}", "<div>".repeat(50_000))),
    ] {
        assert!(prepare(&Definition { body_kind: kind, ..definition("plain", &source) }, &schema()).is_err(), "{kind:?}");
    }
    // Left open by habit, not nested.
    let source = "<p>x<br><ul><li>y</ul>".repeat(300);
    assert!(prepare(&Definition { body_kind: BodyKind::Html, ..definition("plain", &source) }, &schema()).is_ok());
    let _ = prepare(&definition("plain", &"{{ ".repeat(50_000)), &schema());
    let _ = prepare(&definition("plain", &format!("{{{{ {}1 }}}}", "(".repeat(50_000))), &schema());
    let _ = prepare(&definition("plain", &"{% if 1 %}".repeat(50_000)), &schema());
    let _ = prepare(&definition("plain", &format!("{{{{ 1 {} }}}}", "| default(".repeat(5_000))), &schema());
}

#[test]
fn too_many_links_are_refused() {
    let source: String = (0..=MAX_LINKS).map(|n| format!("[x](https://a.example/{n}) ")).collect();
    assert!(problems(&definition("plain", &source))[0].2.contains("at most"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_value_becomes_markup(value in any::<String>()) {
        let definition = definition("plain", "A{{ contact.city }}B <i title=\"{{ contact.city }}\">x</i> [l](https://a.example/{{ contact.city }})");
        let mut definition = definition;
        definition.subject = "{{ contact.city }}".to_owned();
        let person = Contact { attributes: BTreeMap::from([("city".to_owned(), AttributeValue::Text(value.clone()))]), ..contact() };
        let empty = Contact { attributes: BTreeMap::new(), ..contact() };
        let prepared = prepare(&definition, &schema()).unwrap();
        let mail = prepared.render(&Recipient { contact: &person, links: &Links, grounds: None, now: now() });
        let reference = prepared.render(&Recipient { contact: &empty, links: &Links, grounds: None, now: now() }).unwrap();
        if let Ok(mail) = mail {
            prop_assert_eq!(mail.html.matches('<').count(), reference.html.matches('<').count());
            prop_assert_eq!(mail.html.matches('"').count(), reference.html.matches('"').count());
            prop_assert!(!mail.subject.chars().any(char::is_control));
            prop_assert!(!mail.html.chars().any(|c| c.is_ascii_control() && c != '\n' && c != '\t'));
        }
    }

    #[test]
    fn any_body_is_prepared_or_refused_without_a_panic(source in any::<String>(), kind in 0..3) {
        let kind = [BodyKind::Markdown, BodyKind::Html, BodyKind::Mjml][kind as usize];
        if let Ok(prepared) = prepare(&Definition { body_kind: kind, ..definition("newsletter", &source) }, &schema()) {
            let _ = prepared.render(&Recipient { contact: &contact(), links: &Links, grounds: None, now: now() });
        }
    }

    #[test]
    fn bodies_of_tags_and_markup_do_not_panic(pieces in proptest::collection::vec(prop::sample::select(vec![
        "{% if contact.vip %}", "{% endif %}", "{% for x in contact.interests %}", "{% endfor %}", "{{ contact.city }}", "{# c #}", "- a", "\n", "\n\n", "| a | b |\n",
        "|---|---|\n", "> q", "1. z\n", "<p>", "</p>", "<table>", "<tr>", "<td>", "<a href=\"", "\">", "```\n", "**", "[x](", ")", "https://a.example/", "  ",
    ]), 0..30), kind in 0..2) {
        let kind = [BodyKind::Markdown, BodyKind::Html][kind as usize];
        let source = pieces.concat();
        if let Ok(prepared) = prepare(&Definition { body_kind: kind, ..definition("newsletter", &source) }, &schema()) {
            let mail = prepared.render(&Recipient { contact: &contact(), links: &Links, grounds: None, now: now() });
            if let Ok(mail) = mail {
                prop_assert!(!mail.html.contains("zqaj") && !mail.text.contains("zqaj"), "{}", mail.html);
            }
        }
    }
}

/// Run with `cargo test --lib content::tests::pictures -- --ignored`: writes mails to look at into
/// `target/mails`.
#[test]
#[ignore = "for the eye"]
fn pictures() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/mails");
    std::fs::create_dir_all(&folder).unwrap();
    let chinese = "# 春茶到了，{{ contact.first_name }}\n\n阿里山的春天來得早。今年的**高山烏龍**比往年更清甜，[讀完整的故事](https://tea.example/story)。\n\n\
        ## 本週新茶\n\n- 凍頂烏龍\n- 東方美人\n- 正叢鐵觀音\n\n| 茶 | 產地 | 價格 |\n|---|---|--:|\n| 凍頂烏龍 | 南投 | 480 |\n| 東方美人 | 新竹 | 960 |\n\n> 一期一會，一盞茶。\n\n**[立即選購](https://tea.example/shop)**\n";
    let mjml = "<mjml><mj-body background-color=\"#f4f4f4\"><mj-section background-color=\"#fff\"><mj-column><mj-text font-size=\"20px\">Hi {{ contact.first_name }}</mj-text>\
        <mj-text>New leaves from Alishan are here.</mj-text><mj-button href=\"https://tea.example\">Order</mj-button></mj-column></mj-section></mj-body></mjml>";
    let person = Contact { first_name: Some("小明".to_owned()), locale: Some("zh-TW".to_owned()), ..contact() };
    for layout in LAYOUTS {
        std::fs::write(folder.join(format!("{layout}_en.html")), write(&definition(layout, NEWSLETTER), &contact()).html).unwrap();
        std::fs::write(folder.join(format!("{layout}_zh.html")), write(&definition(layout, chinese), &person).html).unwrap();
    }
    let mail = write(&Definition { body_kind: BodyKind::Mjml, ..definition("newsletter", mjml) }, &contact());
    std::fs::write(folder.join("mjml_en.html"), mail.html).unwrap();
}

/// Run with `cargo test --release --lib content -- --ignored --nocapture`: the cost of one mail.
#[test]
#[ignore = "a measurement, not a check"]
fn cost_of_one_mail() {
    let prepared = prepare(&definition("newsletter", &NEWSLETTER.repeat(3)), &schema()).unwrap();
    let person = contact();
    let recipient = Recipient { contact: &person, links: &Links, grounds: None, now: now() };
    let bytes = prepared.render(&recipient).unwrap().html.len();
    let start = std::time::Instant::now();
    for _ in 0..5_000 {
        std::hint::black_box(prepared.render(&recipient).unwrap());
    }
    panic!("{bytes} bytes of HTML, {:?} per mail", start.elapsed() / 5_000);
}
