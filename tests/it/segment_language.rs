//! The segment language for people: its documentation, `segment fmt` and `segment schema`.

use std::path::Path;

use optin::config::{Environment, load};
use optin::segment::{self, Catalog};

use crate::support::process::repository;
use crate::support::{Instance, TestDatabase, instance, optin};

fn example() -> Catalog {
    let config =
        load(&repository().join("config"), &Environment::default()).unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    Catalog::new(&config)
}

/// The fenced blocks of a kind, each with the number of its first line.
fn blocks(text: &str, kind: &str) -> Vec<(usize, String)> {
    let mut blocks: Vec<(usize, String)> = Vec::new();
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            inside = !inside && line == format!("```{kind}");
            if inside {
                blocks.push((number + 2, String::new()));
            }
        } else if let Some((_, block)) = blocks.last_mut().filter(|_| inside) {
            block.push_str(line);
            block.push('\n');
        }
    }
    blocks
}

/// The rules of a block: a line that goes on with `and`, `or` or a blank belongs to the one before.
fn rules(block: &str) -> Vec<String> {
    let mut rules: Vec<String> = Vec::new();
    for line in block.lines() {
        match rules.last_mut().filter(|_| ["and ", "or ", " ", ")"].iter().any(|start| line.starts_with(start))) {
            Some(rule) => rule.push_str(&format!("\n{line}")),
            None => rules.push(line.to_owned()),
        }
    }
    rules
}

#[test]
fn every_example_of_the_documentation_is_understood_by_the_example_instance() {
    let catalog = example();
    let text = std::fs::read_to_string(repository().join("docs/segments.md")).unwrap();
    let mut seen = 0;
    for (line, block) in blocks(&text, "text") {
        for rule in rules(&block) {
            seen += 1;
            if let Err(errors) = segment::rule(&rule, &catalog) {
                panic!("docs/segments.md, near line {line}\n{}", segment::problems("example", &rule, &errors).render(false));
            }
            // Some are broken over lines sooner than they must.
            if !rule.contains('\n') {
                assert_eq!(segment::formatted(&rule, &catalog).unwrap(), rule, "docs/segments.md, near line {line}: not formatted");
            }
        }
    }
    assert!(seen > 60, "{seen} examples were found");
    let toml = blocks(&text, "toml");
    for (line, block) in &toml {
        let table: toml::Table = block.parse().unwrap();
        for (name, segment) in table {
            let rule = segment["where"].as_str().unwrap();
            assert!(segment::rule(rule, &catalog).is_ok(), "line {line}: {name}");
            assert_eq!(format!("{}\n", segment::formatted(rule, &catalog).unwrap()), rule, "line {line}: {name}");
        }
    }
    assert_eq!(toml.len(), 1);
}

#[test]
fn the_documentation_names_every_call_region_and_key() {
    let text = std::fs::read_to_string(repository().join("docs/segments.md")).unwrap();
    let completion = segment::completion(&example());
    for function in &completion.functions {
        assert!(text.contains(&format!("{}(", function.name)), "`{}` is not explained", function.name);
        for argument in function.arguments.iter().filter(|argument| argument.form != "first") {
            assert!(text.contains(argument.name), "`{}` of `{}` is not explained", argument.name, function.name);
        }
    }
    for field in completion.fields.iter().filter(|field| field.source == "score" || field.source == "built_in") {
        assert!(text.contains(&format!("`{}`", field.name)), "`{}` is not explained", field.name);
    }
    let json = serde_json::to_value(&completion).unwrap();
    for key in json.as_object().unwrap().keys() {
        assert!(text.contains(&format!("`{key}`")), "the key `{key}` is not explained");
    }
}

#[test]
fn the_example_instance_is_formatted() {
    let config = repository().join("config");
    let output = optin(&["--config", &config.display().to_string(), "segment", "fmt", "--check"]);
    let output = output.exits(0);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
}

/// Comments, other keys, quotes of every kind, and rules that are formatted already.
const UNTIDY: &str = "# Who gets what\n\
    \n\
    [ short ]  # a table\n\
    description = \"where = 'vip'\"   # a key before\n\
    where = \"vip   AND  (city = 'Taipei')\"\n\
    [tidy]\n\
    where = \"vip and city = 'Taipei'\" # stays as it is\n\
    history = false\n\
    [literal]\n\
    where = '''vip\n  and points>=500'''\n\
    [long]\n\
    where = \"city = 'Taipei' and clicked(within: 90d, at_least: 2) and points >= 500 and birthday is set and not vip\"\n\
    description = 'behind'\n\
    [quoted]\n\
    where = \"city = 'a \\\\ and \\\"\\\"\\\" in it' and clicked(within: 90d, at_least: 2) and points >= 500 and  birthday is set and not vip\"\n\
    [named]\n\
    where = \" short \"\n";

const ATTRIBUTES: &str = "[site]\nurl = \"http://127.0.0.1:8080\"\n\
    [sender]\nname = \"Tea House\"\nemail = \"letters@tea.example\"\npostal_address = \"1 Leaf Street, Taipei\"\n\
    [attributes]\ncity = \"text\"\nvip = \"boolean\"\npoints = \"number\"\nbirthday = \"date\"\n";

fn untidy(segments: &str) -> Instance {
    instance(&TestDatabase::sqlite(), &[("optin.toml", ATTRIBUTES), ("segments.toml", segments)])
}

fn file(instance: &Instance) -> String {
    std::fs::read_to_string(instance.dir().join("segments.toml")).unwrap()
}

#[test]
fn fmt_rewrites_rules_and_touches_nothing_else() {
    let text = UNTIDY;
    let shop = untidy(text);
    let output = shop.optin(&["segment", "fmt", "--check"]).exits(1);
    assert_eq!(output.stdout, "literal\nlong\nnamed\nquoted\nshort\n");
    assert!(output.stderr.contains("5 rules are not formatted") && output.stderr.contains("--write"), "{output}");
    assert_eq!(file(&shop), text, "checking changes nothing");

    let before: Vec<serde_json::Value> = members(&shop);
    let output = shop.optin(&["segment", "fmt", "--write"]).exits(0);
    assert_eq!(output.stdout, "literal\nlong\nnamed\nquoted\nshort\n");
    insta::assert_snapshot!("fmt_written", file(&shop));
    assert_eq!(members(&shop), before, "rules mean what they meant");
    let rest = |text: &str| {
        let table: toml::Table = text.parse().unwrap();
        let kept = table.into_iter().map(|(name, segment)| {
            let mut segment = segment.as_table().unwrap().clone();
            segment.remove("where");
            (name, segment)
        });
        kept.collect::<Vec<_>>()
    };
    assert_eq!(rest(&file(&shop)), rest(text));

    let written = file(&shop);
    shop.optin(&["segment", "fmt", "--check"]).exits(0);
    assert_eq!(shop.optin(&["segment", "fmt", "--write"]).exits(0).stdout, "");
    assert_eq!(file(&shop), written, "formatting twice");
    assert!(!Path::new(&shop.dir().join("segments.toml.new")).exists());
}

/// The rules as the checker understands them, in canonical form.
fn members(shop: &Instance) -> Vec<serde_json::Value> {
    let config = shop.load().unwrap_or_else(|problems| panic!("{}", problems.render(false)));
    let catalog = Catalog::new(&config);
    let rule = |source: &str| segment::rule(source, &catalog).unwrap().to_string();
    config.segments.iter().map(|(name, segment)| serde_json::json!([name, rule(&segment.rule.value)])).collect()
}

#[test]
fn fmt_keeps_the_line_ends_of_the_file() {
    let text = "[long]\r\nwhere = \"city = 'Taipei' and points >= 500 and birthday is set and not vip and city != 'London' and points < 900\"\r\n# end\r\n";
    let shop = untidy(text);
    shop.optin(&["segment", "fmt", "--write", "long"]).exits(0);
    let written = file(&shop);
    assert_eq!(written.matches('\n').count(), written.matches("\r\n").count(), "{written:?}");
    assert!(written.ends_with("points < 900\r\n\"\"\"\r\n# end\r\n"), "{written:?}");
    shop.optin(&["segment", "fmt", "--check"]).exits(0);
}

#[test]
fn fmt_shows_rules_and_expressions_and_refuses_what_it_cannot_read() {
    let shop = untidy("[a]\nwhere = \"vip  or points>3\"\n[b]\nwhere = \"a\"\n");
    assert_eq!(shop.optin(&["segment", "fmt"]).exits(0).stdout, "[a]\nwhere = \"vip or points > 3\"\n\n[b]\nwhere = \"a\"\n\n");
    assert_eq!(shop.optin(&["segment", "fmt", "a"]).exits(0).stdout, "vip or points > 3\n");
    assert_eq!(shop.optin(&["segment", "fmt", "vip AND(points>3)"]).exits(0).stdout, "vip and points > 3\n");
    shop.optin(&["segment", "fmt", "--check", "vip AND points > 3"]).exits(1);
    shop.optin(&["segment", "fmt", "--check", "b"]).exits(0);
    let wrong = shop.optin(&["segment", "fmt", "vip and and"]).exits(2);
    assert!(wrong.stderr.contains("expected a condition, found `and`"), "{wrong}");
    let wrong = shop.optin(&["segment", "fmt", "--write", "vip  or vip"]).exits(2);
    assert!(wrong.stderr.contains("no segment of it"), "{wrong}");
    let json = shop.optin(&["segment", "fmt", "--json"]).exits(0).json();
    assert_eq!(json["rules"][0], serde_json::json!({ "segment": "a", "where": "vip or points > 3", "changed": true }));
    assert_eq!(json["rules"][1]["changed"], false);
    let json = shop.optin(&["segment", "fmt", "--json", "--write"]).exits(0).json();
    assert!(json["file"].as_str().is_some_and(|file| file.ends_with("segments.toml")));
    assert_eq!(file(&shop), "[a]\nwhere = \"vip or points > 3\"\n[b]\nwhere = \"a\"\n");
}

#[test]
fn schema_tells_editors_what_can_be_written() {
    let shop = Instance::example(&TestDatabase::sqlite());
    let json = shop.optin(&["segment", "schema", "--json"]).exits(0).json();
    let named = |list: &str, name: &str| {
        let found = json[list].as_array().unwrap().iter().find(|entry| entry["name"] == name);
        found.unwrap_or_else(|| panic!("no `{name}` in {list}")).clone()
    };
    assert_eq!(named("fields", "birthday")["type"], "date");
    assert!(named("fields", "birthday")["operators"].as_array().unwrap().contains(&"in next".into()));
    assert_eq!(named("fields", "email")["source"], "built_in");
    assert_eq!(named("fields", "rfm.recency")["source"], "score");
    assert_eq!(named("fields", "engagement.stage")["source"], "engagement");
    let subscribed = named("functions", "subscribed");
    assert_eq!(subscribed["example"], "subscribed('offers')", "with a topic of this instance");
    let forms: Vec<_> = subscribed["arguments"].as_array().unwrap().iter().map(|argument| argument["form"].as_str().unwrap()).collect();
    assert_eq!(forms, ["first", "named", "compared"]);
    assert_eq!(subscribed["arguments"][0]["required"], true);
    let visit = named("events", "visit");
    assert_eq!(visit["properties"][0]["name"], "page");
    assert_eq!(named("segments", "birthdays")["where"], "birthday in next 7 days");
    assert_eq!(named("regions", "EU")["countries"].as_array().unwrap().len(), 27);
    assert_eq!(json["country"], "country");
    assert_eq!(json["topics"], serde_json::json!(["offers", "tea-letter", "workshops"]));
    let text = shop.optin(&["segment", "schema"]).exits(0).stdout;
    for word in ["birthday in next 7 days", "ordered(..)", "at_least:", "engagement.score", "event tasting", "Benelux"] {
        assert!(text.contains(word), "no `{word}` in\n{text}");
    }
}
