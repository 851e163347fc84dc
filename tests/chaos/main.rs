//! The kill suite: real processes, killed and hindered in every way we could think of, and a receiver
//! whose log is the truth. `README.md` beside this file says how to run it and how to read its table.

#![expect(clippy::unwrap_used, reason = "a scenario that cannot go on should stop, and say where")]

#[path = "../it/support/mod.rs"]
#[expect(dead_code, unused_imports, unused_macros, reason = "shared with the integration tests, which use the rest")]
mod support;

mod clicks;
mod kills;
mod lanes;
mod receiver;
mod stage;
mod trouble;

use std::collections::VecDeque;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use stage::{Line, Setting};

/// Scenarios at a time: each has several processes, and a machine of two cores should not choke.
const AT_A_TIME: usize = 2;
/// The seed of the short form; the long form plays these and more.
const SEED: u64 = 20_261_122;
/// Seeds of the long form.
const LONG_SEEDS: u64 = 3;

const SQLITE: Setting = Setting { engine: "sqlite", nodes: 1 };
const POSTGRES: Setting = Setting { engine: "postgres", nodes: 1 };
const NODES: Setting = Setting { engine: "postgres", nodes: 3 };
const EVERYWHERE: &[Setting] = &[SQLITE, POSTGRES, NODES];

/// How much is played.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// More people, more kills, more seeds, and scenarios that take half a minute.
    pub long: bool,
    /// Chooses moments, steps and refusals.
    pub seed: u64,
}

/// How a scenario ended, if it did not fail.
pub enum Played {
    /// A line of the table.
    Line(Line),
    /// Not possible here; says why.
    Skipped(String),
}

/// Numbers from a seed (SplitMix64): the same moments again for the same seed.
pub struct Seed(u64);

impl Seed {
    /// A row of numbers of its own for `name`.
    pub fn new(seed: u64, name: &str) -> Seed {
        Seed(name.bytes().fold(seed, |state, byte| state.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte)))
    }

    /// From 0 to `end` - 1.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }
}

type Play = Box<dyn Fn(Setting, &Form) -> Played + Send + Sync>;

struct Scenario {
    name: String,
    settings: &'static [Setting],
    /// Settings of the short form only.
    short: &'static [Setting],
    play: Play,
}

fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut add = |name: &str, settings: &'static [Setting], short: &'static [Setting], play: Play| {
        all.push(Scenario { name: name.to_owned(), settings, short, play });
    };
    let several: &'static [Setting] = &[NODES];
    add("frozen past its lease, at a handover", several, several, Box::new(|s, f| kills::frozen(s, f, Some("handed_over"), false)));
    add("frozen past its lease, anywhere", several, several, Box::new(|s, f| kills::frozen(s, f, None, false)));
    add("frozen past its lease, doubtful sent again", several, several, Box::new(|s, f| kills::frozen(s, f, Some("handed_over"), true)));
    add("frozen inside a transaction", several, several, Box::new(|s, f| kills::frozen(s, f, Some("audience_half"), false)));
    add("database silent for one node", several, several, Box::new(trouble::cut_off));
    add("database link of one node down", several, several, Box::new(trouble::link_down));
    add("frozen and woken at random", several, &[], Box::new(kills::frozen_again));
    add("database silent now and then", several, &[], Box::new(trouble::flicker));
    add("killed at random", EVERYWHERE, EVERYWHERE, Box::new(|s, f| kills::random(s, f, false, true)));
    add("killed at random, no PIPELINING", EVERYWHERE, &[NODES], Box::new(|s, f| kills::random(s, f, false, false)));
    add("killed at random, doubtful sent again", EVERYWHERE, EVERYWHERE, Box::new(|s, f| kills::random(s, f, true, true)));
    add("messages through kills", EVERYWHERE, EVERYWHERE, Box::new(lanes::messages));
    add("two runs at once, killed at random", EVERYWHERE, &[SQLITE, NODES], Box::new(lanes::two_runs));
    add("a rate, killed at random", EVERYWHERE, &[SQLITE, NODES], Box::new(lanes::rate));
    add("a schedule after a kill", &[SQLITE, POSTGRES], &[SQLITE, POSTGRES], Box::new(lanes::schedule));
    for (step, passes) in kills::STEPS {
        add(&format!("killed at {step}"), EVERYWHERE, &[SQLITE, NODES], Box::new(|s, f| kills::step(s, f, step, *passes)));
    }
    add("stopped with SIGTERM", EVERYWHERE, EVERYWHERE, Box::new(kills::sigterm));
    add("paused and resumed", EVERYWHERE, &[SQLITE, NODES], Box::new(kills::pause));
    add("relay down from the start", EVERYWHERE, &[SQLITE, NODES], Box::new(kills::relay_down));
    add("relay killed twice", EVERYWHERE, &[SQLITE, NODES], Box::new(kills::relay_killed));
    add("a share of 4xx and 5xx", EVERYWHERE, EVERYWHERE, Box::new(kills::refusals));
    add("closed after the final dot", EVERYWHERE, EVERYWHERE, Box::new(kills::closed));
    add("started in the same second", EVERYWHERE, EVERYWHERE, Box::new(kills::same_second));
    add("PostgreSQL restarted", &[POSTGRES, NODES], &[NODES], Box::new(trouble::postgres_restarts));
    add("SQLite locked by another process", &[SQLITE], &[SQLITE], Box::new(trouble::locked));
    add("disk full", &[SQLITE], &[SQLITE], Box::new(trouble::disk_full));
    add("clicks through kills", &[SQLITE, POSTGRES], &[SQLITE, POSTGRES], Box::new(clicks::killed));
    add("SQLite read-only", &[SQLITE], &[SQLITE], Box::new(trouble::read_only));
    all
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[expect(clippy::disallowed_methods, reason = "a test is told by its environment how much to do")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

struct Result {
    title: String,
    row: String,
    failed: bool,
    order: (usize, usize, u64),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, port, log] = &arguments[..]
        && mode == "receiver"
    {
        receiver::serve(port, log);
        return ExitCode::SUCCESS;
    }
    let long = variable("CHAOS").is_some_and(|form| form == "long");
    let seed = variable("CHAOS_SEED").map_or(SEED, |seed| seed.parse().expect("CHAOS_SEED is a number"));
    let seeds: Vec<u64> = (seed..).take(if long { LONG_SEEDS as usize } else { 1 }).collect();
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let scenarios = scenarios();
    let mut waiting = VecDeque::new();
    for (at, scenario) in scenarios.iter().enumerate() {
        for (place, setting) in (if long { scenario.settings } else { scenario.short }).iter().enumerate() {
            for seed in &seeds {
                let title = format!("{} / {} / {}", scenario.name, setting.engine, setting.nodes);
                if filters.iter().all(|filter| title.contains(filter.as_str())) {
                    waiting.push_back((at, place, *setting, *seed, title));
                }
            }
        }
    }
    if arguments.iter().any(|argument| argument == "--list") {
        waiting.iter().for_each(|(_, _, _, _, title)| say(&format!("{title}: test")));
        return ExitCode::SUCCESS;
    }
    say(&format!("\nplaying {} scenarios, seed {seed}{}", waiting.len(), if long { ", long form" } else { "" }));
    let begun = Instant::now();
    let waiting = Mutex::new(waiting);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let Some((at, place, setting, seed, title)) = waiting.lock().unwrap().pop_front() else { return };
                    let result = play(&scenarios[at], setting, Form { long, seed }, title, (at, place, seed));
                    results.lock().unwrap().push(result);
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|result: &Result| result.order);
    finish(&results, begun)
}

fn play(scenario: &Scenario, setting: Setting, form: Form, title: String, order: (usize, usize, u64)) -> Result {
    let begun = Instant::now();
    let played = std::panic::catch_unwind(AssertUnwindSafe(|| (scenario.play)(setting, &form)));
    let seconds = begun.elapsed().as_secs_f64();
    let cells = match &played {
        Ok(Played::Line(Line { kills, people, lost, doubled, in_doubt, bound })) => {
            format!("{kills} | {people} | {lost} | {doubled} | {in_doubt} | {bound}")
        }
        Ok(Played::Skipped(_)) => "skipped | | | | |".to_owned(),
        Err(_) => "FAILED | | | | |".to_owned(),
    };
    match &played {
        Ok(Played::Line(_)) => say(&format!("ok      {title} ({seconds:.1} s)")),
        Ok(Played::Skipped(reason)) => say(&format!("skipped {title}: {reason}")),
        Err(problem) => {
            let text = problem.downcast_ref::<String>().cloned().or_else(|| problem.downcast_ref::<&str>().map(ToString::to_string));
            say(&format!("FAILED  {title} (seed {}, {seconds:.1} s): {}", form.seed, text.unwrap_or_default()));
        }
    }
    let row = format!("| {} | {} | {} | {} | {cells} |", scenario.name, setting.engine, setting.nodes, form.seed);
    Result { title, row, failed: played.is_err(), order }
}

/// Writes the table and answers for all.
fn finish(results: &[Result], begun: Instant) -> ExitCode {
    let mut table = String::from(
        "| scenario | database | nodes | seed | kills | recipients | lost | doubled | in doubt | at most |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for result in results {
        table.push_str(&result.row);
        table.push('\n');
    }
    say(&format!("\n{table}"));
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("../chaos.md");
    std::fs::write(&file, &table).unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
    let failed: Vec<&str> = results.iter().filter(|result| result.failed).map(|result| result.title.as_str()).collect();
    say(&format!("{} of {} scenarios without a finding, {} s", results.len() - failed.len(), results.len(), begun.elapsed().as_secs()));
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    say(&format!("FAILED:\n  {}", failed.join("\n  ")));
    ExitCode::FAILURE
}
