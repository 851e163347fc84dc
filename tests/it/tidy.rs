//! The house rules that a program can check: who may know what, the order of the rooms, the size
//! of files, what must not stay in committed code. Each rule is a function from a file to its
//! findings, so that a sample that breaks it shows that it can fail.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::support::process::repository;

/// Lines of a file without its tests: more does not fit a head.
const MAX_LINES: usize = 600;

/// The rooms in order; each may use only those before it. `consent` and `contact` and so on are
/// folders or files of `src/`.
const ROOMS: &[&str] = &[
    "clock",
    "entropy",
    "fault",
    "token",
    "config",
    "db",
    "text",
    "telemetry",
    "contact",
    "consent",
    "behaviour",
    "insight",
    "segment",
    "campaign",
    "journey",
    "content",
    "delivery",
    "tracking",
    "inbound",
    "report",
    "rights",
    "instance",
    "worker",
    "web",
    "cli",
];

/// Released migrations and their SHA-256: they never change, later ones correct them. A migration
/// is added here with the release that brings it.
const RELEASED_MIGRATIONS: &[(&str, &str)] = &[
    ("0001_first.sql", "b1a38dd8e952e9078d40a97ce4f7487730db8cba4967c0f347a26293c2ebb8be"),
    ("0002_delivery.sql", "97fa10710037d1a7860848608d7925c6bd9578c1b878b7c3b07c34432ed06535"),
    ("0003_permission.sql", "e5dcde1bd6a3dd05ec16ad6c075e300f34a569461b77994a64f8490ddb62da61"),
    ("0004_response.sql", "541a7e23533c6dfb370086e97b09cc0ce967d61366bf9693c5aacccf8635bace"),
];

/// What only some may write: the words, where they are allowed, and why.
struct Reserved {
    words: &'static [&'static str],
    allowed: &'static [&'static str],
    reason: &'static str,
}

const RESERVED: &[Reserved] = &[
    Reserved { words: &["sqlx::", "use sqlx"], allowed: &["src/db/"], reason: "only `db/` knows sqlx; rooms use `Db`, `Tx` and `args!`" },
    Reserved { words: &["axum::", "use axum"], allowed: &["src/web/"], reason: "only `web/` knows HTTP" },
    Reserved { words: &["lettre::", "use lettre"], allowed: &["src/delivery/"], reason: "only `delivery/` knows SMTP and MIME" },
    Reserved {
        words: &["mail_parser::", "use mail_parser"],
        allowed: &["src/delivery/", "src/inbound/", "src/web/"],
        reason: "only `delivery/`, `inbound/` and the development inbox read MIME",
    },
    Reserved {
        words: &["println!", "print!(", "eprintln!", "eprint!(", "io::stdout", "io::stderr"],
        allowed: &["src/cli/", "src/main.rs", "src/telemetry.rs"],
        reason: "only `cli/` prints (and `telemetry.rs` sends logs to standard error)",
    },
    Reserved { words: &["process::exit"], allowed: &["src/main.rs"], reason: "only `main.rs` ends the process" },
    Reserved {
        words: &["env::var", "env::vars", "env::set_var", "option_env!"],
        allowed: &["src/config/"],
        reason: "only `config/` reads the environment",
    },
    Reserved {
        words: &["SystemTime::now", "Timestamp::now", "Zoned::now", "Utc::now", "Local::now", "OffsetDateTime::now"],
        allowed: &["src/clock.rs"],
        reason: "the time is a parameter; only `clock.rs` reads it",
    },
    Reserved {
        words: &["getrandom::", "rand_chacha::", "thread_rng", "RandomState::new", "OsRng"],
        allowed: &["src/entropy.rs"],
        reason: "chance is a parameter; only `entropy.rs` makes it",
    },
];

/// A file of the repository.
struct File {
    /// From the repository's root, with `/`.
    path: String,
    text: String,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    /// The text before its tests, comments and doc comments blanked, with line numbers from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        // `#[cfg(test)] mod tests;` in the middle of a list of modules ends nothing: what counts is the
        // test module written out, which stands last, and files of tests.
        let lines: Vec<&str> = self.text.lines().collect();
        let opens = |at: usize| {
            lines[at].trim() == "#[cfg(test)]"
                && lines[at + 1..].iter().find(|line| !line.starts_with("#[")).is_some_and(|line| line.contains('{'))
        };
        let tests = if self.path.ends_with("/tests.rs") { 0 } else { (0..lines.len()).find(|at| opens(*at)).unwrap_or(lines.len()) };
        self.text.lines().take(tests).enumerate().map(|(at, line)| (at + 1, without_comment(line)))
    }

    /// The folder or file of `src/` it belongs to; `None` for `lib.rs` and `main.rs`.
    fn room(&self) -> Option<&str> {
        let path = self.path.strip_prefix("src/")?;
        let room = path.split('/').next()?;
        let room = room.strip_suffix(".rs").unwrap_or(room);
        (room != "lib" && room != "main").then_some(room)
    }
}

fn without_comment(line: &str) -> &str {
    match line.find("//") {
        // `https://` inside a string is no comment.
        Some(at) if !line[..at].ends_with(':') => &line[..at],
        _ => line,
    }
}

/// Whether `word` stands in `line` by itself: `print!(` is not part of `eprint!(`.
fn holds(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

fn reserved_words(file: &File) -> Vec<String> {
    let mut findings = Vec::new();
    for rule in RESERVED.iter().filter(|rule| !rule.allowed.iter().any(|allowed| file.path.starts_with(allowed))) {
        for (number, line) in file.code() {
            if let Some(word) = rule.words.iter().find(|word| holds(line, word)) {
                findings.push(format!("{}:{number} `{word}`: {}", file.path, rule.reason));
            }
        }
    }
    findings
}

fn room_order(file: &File) -> Vec<String> {
    let Some(room) = file.room() else { return Vec::new() };
    let Some(own) = ROOMS.iter().position(|known| *known == room) else {
        return vec![format!("{}: `{room}` is no room; add it to `ROOMS` and to ARCHITECTURE.md, at its place", file.path)];
    };
    let mut findings = Vec::new();
    for (number, used) in file.code().flat_map(|(number, line)| used_rooms(line).into_iter().map(move |used| (number, used))) {
        if ROOMS.iter().position(|known| *known == used).is_some_and(|position| position > own) {
            findings.push(format!("{}:{number} `{room}` uses `{used}`, which stands after it", file.path));
        }
    }
    findings
}

/// `crate::db::Db` and `use crate::{db, text::mask}` name `db`; `db` and `text`.
fn used_rooms(line: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => {
                let mut depth = 0;
                let mut top = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        c if depth == 0 => top.push(c),
                        _ => {}
                    }
                }
                rooms.extend(top.split(',').map(|part| word(part.trim())));
            }
            None => rooms.push(word(rest)),
        }
    }
    rooms
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn length(file: &File) -> Vec<String> {
    let lines = file.code().count();
    if lines <= MAX_LINES { Vec::new() } else { vec![format!("{}: {lines} lines without tests, at most {MAX_LINES}: split it", file.path)] }
}

/// Also in tests: what must not stay.
fn leftovers(file: &File) -> Vec<String> {
    // Written in pieces, so that this file does not find itself.
    let words = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("db", "g!("), concat!("TO", "DO"), concat!("FIX", "ME")];
    let mut findings = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        if let Some(word) = words.iter().find(|word| holds(line, word)) {
            findings.push(format!("{}:{} `{word}` must not stay in committed code", file.path, at + 1));
        }
        let attribute = line.trim_start();
        if attribute == concat!("#[ig", "nore]") {
            findings.push(format!("{}:{} a test is ignored without a reason: `= \"why\"`", file.path, at + 1));
        }
        if attribute.starts_with("#[allow(") || attribute.starts_with("#![allow(") {
            findings.push(format!("{}:{} write `#[expect(.., reason = \"..\")]`, which ends when its reason ends", file.path, at + 1));
        }
    }
    findings
}

fn migration(file: &File, released: &[(&str, &str)]) -> Vec<String> {
    let name = file.path.strip_prefix("migrations/").unwrap_or(&file.path);
    let hash: String = Sha256::digest(file.text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let changed = released.iter().any(|(known, expected)| *known == name && *expected != hash);
    if changed { vec![format!("{}: a released migration has changed; undo it and add a new one", file.path)] } else { Vec::new() }
}

/// Every file below `folder` with that extension. Finding none means that the rule looks at the
/// wrong place.
fn files(folder: &str, extension: &str) -> Vec<File> {
    let mut found = Vec::new();
    walk(&repository().join(folder), extension, &mut found);
    assert!(!found.is_empty(), "no *.{extension} below {folder}/: the tidy test looks at the wrong place");
    found
}

fn walk(folder: &Path, extension: &str, found: &mut Vec<File>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            walk(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            let name = path.strip_prefix(repository()).unwrap().to_string_lossy().replace('\\', "/");
            found.push(File { path: name, text: std::fs::read_to_string(&path).unwrap() });
        }
    }
}

#[track_caller]
fn hold(files: &[File], rule: impl Fn(&File) -> Vec<String>) {
    let findings: Vec<String> = files.iter().flat_map(rule).collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn each_room_knows_only_what_it_may() {
    hold(&files("src", "rs"), reserved_words);
}

#[test]
fn a_room_uses_only_rooms_that_stand_before_it() {
    hold(&files("src", "rs"), room_order);
}

#[test]
fn files_fit_a_head() {
    hold(&files("src", "rs"), length);
}

#[test]
fn nothing_is_left_lying_about() {
    hold(&files("src", "rs"), leftovers);
    hold(&files("tests", "rs"), leftovers);
}

#[test]
fn released_migrations_do_not_change() {
    let found = files("migrations", "sql");
    hold(&found, |file| migration(file, RELEASED_MIGRATIONS));
    for (name, _) in RELEASED_MIGRATIONS {
        assert!(found.iter().any(|file| file.path == format!("migrations/{name}")), "the released migration {name} is gone");
    }
}

#[test]
fn every_reserved_word_is_found_where_it_must_not_stand() {
    for rule in RESERVED {
        for word in rule.words {
            let text = format!("fn f() {{\n    let x = {word}something();\n}}\n");
            let outside = File::new("src/text/mod.rs", &text);
            assert!(reserved_words(&outside).iter().any(|finding| finding.starts_with("src/text/mod.rs:2 ")), "{word}");
            let inside = File::new(&format!("{}x.rs", rule.allowed[0]), &text);
            assert!(!reserved_words(&inside).iter().any(|finding| finding.ends_with(rule.reason)), "{word}");
        }
    }
}

#[test]
fn comments_and_tests_may_name_what_code_must_not() {
    let file = File::new(
        "src/text/mod.rs",
        "// sqlx::query\n/// axum::Router\nlet a = \"https://lettre::x\";\n#[cfg(test)]\nmod tests { use sqlx::Row; }\n",
    );
    assert_eq!(reserved_words(&file).len(), 1, "only the string with `https://` counts as code");
}

#[test]
fn a_use_of_a_later_room_is_found() {
    let breaks = |text: &str| room_order(&File::new("src/segment/sql.rs", text)).len();
    assert_eq!(breaks("use crate::contact::Contact;\nuse crate::{db::{Db, Tx}, text};\n"), 0);
    assert_eq!(breaks("use crate::delivery::Claim;\n"), 1);
    assert_eq!(breaks("use crate::{db::{Db, report}, web, cli::Output};\n"), 2);
    assert_eq!(breaks("fn f() -> crate::campaign::Run {}\n"), 1);
    assert_eq!(room_order(&File::new("src/attic/mod.rs", "")).len(), 1);
    assert_eq!(room_order(&File::new("src/lib.rs", "pub use crate::cli::run;\n")).len(), 0);
}

#[test]
fn a_long_file_is_found() {
    assert_eq!(length(&File::new("src/text/mod.rs", &"let a = 1;\n".repeat(MAX_LINES + 1))).len(), 1);
    let tested = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", "let a = 1;\n".repeat(MAX_LINES), "let b = 2;\n".repeat(50));
    assert_eq!(length(&File::new("src/text/mod.rs", &tested)).len(), 0);
    assert_eq!(length(&File::new("src/text/tests.rs", &"let a = 1;\n".repeat(MAX_LINES + 1))).len(), 0);
    let listed = format!("#[cfg(test)]\nmod tests;\n{}", "let a = 1;\n".repeat(MAX_LINES + 1));
    assert_eq!(length(&File::new("src/text/mod.rs", &listed)).len(), 1, "a list of modules ends nothing");
}

#[test]
fn leftovers_are_found() {
    for text in [
        concat!("to", "do!(\"later\")"),
        concat!("unimple", "mented!()"),
        concat!("db", "g!(x)"),
        concat!("// TO", "DO: later"),
        concat!("// FIX", "ME"),
        concat!("#[ig", "nore]"),
        concat!("#[al", "low(dead_code)]"),
    ] {
        assert_eq!(leftovers(&File::new("src/text/mod.rs", text)).len(), 1, "{text}");
    }
    assert_eq!(leftovers(&File::new("src/a.rs", concat!("#[ig", "nore = \"takes an hour\"]"))).len(), 0);
}

#[test]
fn a_changed_migration_is_found() {
    let file = File::new("migrations/0001_first.sql", "CREATE TABLE a (id BIGINT);");
    assert_eq!(migration(&file, &[("0001_first.sql", "00")]).len(), 1);
    assert_eq!(migration(&file, &[("0002_other.sql", "00")]).len(), 0);
}
