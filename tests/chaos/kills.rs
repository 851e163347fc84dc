//! Nodes that die, freeze, stop in good order; relays that come, go and refuse.

use std::time::Duration;

use crate::receiver::Manners;
use crate::stage::{CONNECTIONS, Line, Setting, Stage};
use crate::support::wait_until;
use crate::{Form, Played, Seed};

/// Where a node may be killed, and a pass that every run comes to; what is true there is in `README.md`.
pub const STEPS: &[(&str, u64)] = &[
    ("audience_half", 1),
    ("claimed", 2),
    ("rendered", 40),
    ("connected", 3),
    ("envelope_accepted", 40),
    ("handed_over", 40),
    ("body_half", 40),
    ("dot_written", 40),
    ("reply_read", 40),
    ("outcome_committed", 10),
    ("folded", 2),
    ("run_finishing", 1),
];

/// Slow enough that a run lasts for some seconds and something is always under way.
fn unhurried(seed: u64) -> Manners {
    Manners { seed, command_ms: 1, message_ms: 12, ..Manners::default() }
}

fn played(line: Line) -> Played {
    Played::Line(line)
}

/// Killed several times at random moments, started again each time.
pub fn random(setting: Setting, form: &Form, resend: bool, pipelining: bool) -> Played {
    let mut seed = Seed::new(form.seed, &format!("random {setting:?} {resend}"));
    let people = if form.long { 3_000 } else { 350 };
    let kills = if form.long { 20 } else { 5 };
    let mut stage = Stage::new(setting, people, Manners { pipelining, ..unhurried(form.seed) });
    stage.resend = resend;
    if resend {
        stage.wire(|call, _| call.env("OPTIN_DELIVERY__IN_DOUBT", "resend"));
    }
    stage.schedule();
    stage.start_all();
    for kill in 1..=kills {
        let after = people * kill / (kills + 2) + seed.below(20) as usize;
        stage.receiver.wait_for(after, 60);
        std::thread::sleep(Duration::from_millis(seed.below(15)));
        let node = seed.below(setting.nodes as u64) as usize;
        stage.kill(node);
    }
    stage.finish();
    // On one machine a dead process is known for dead: nobody waits for its lease of 30 seconds.
    let silence_ms = stage.receiver.log().longest_silence_ms();
    assert!(silence_ms < 15_000, "no mail left for {silence_ms} ms");
    played(stage.judge())
}

/// Killed exactly at one step, on every node that comes there for the n-th time.
pub fn step(setting: Setting, form: &Form, name: &str, passes: u64) -> Played {
    let mut seed = Seed::new(form.seed, &format!("step {name} {setting:?}"));
    let people = if form.long { 600 } else { 160 };
    let manners = Manners { seed: form.seed, pipelining: !seed.below(4).eq(&0), message_ms: 2, ..Manners::default() };
    let mut stage = Stage::new(setting, people, manners);
    let plans: Vec<String> =
        (0..setting.nodes).map(|_| format!("{name}:{}", 1 + seed.below(passes.div_ceil(setting.nodes as u64)))).collect();
    let told = plans.join(", ");
    stage.wire(move |call, node| call.env("OPTIN_FAULT", &plans[node]));
    stage.schedule();
    stage.start_all();
    // A node dies when its turn comes; a run may also end before all of them had theirs.
    let mut died = 0;
    wait_until(&format!("the run ends or every node dies at {told}"), 90, || {
        for node in &mut stage.nodes {
            if node.as_mut().is_some_and(|running| !runs(running.id())) {
                *node = None;
                died += 1;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
        let over = died == setting.nodes;
        (over || (died > 0 && stage.run().is_some_and(|run| run["state"] == "done")) || finished_without(&stage, died)).then_some(())
    });
    assert!(died > 0, "no node came to the step `{name}` ({told}): the run ended without it");
    stage.kills = died;
    stage.wire(|call, _| call);
    stage.start_all();
    played(stage.judge())
}

fn finished_without(stage: &Stage, died: usize) -> bool {
    died == 0 && stage.receiver.log().mails == stage.people && stage.run().is_some_and(|run| run["state"] == "done")
}

/// Whether a process of ours lives: one that ended stays as a zombie until it is waited for.
fn runs(pid: u32) -> bool {
    !matches!(state_of(pid), None | Some('Z'))
}

fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 1..].trim_start().chars().next()
}

/// SIGTERM in the middle: conversations end, nothing is in doubt, the rest is sent later.
pub fn sigterm(setting: Setting, form: &Form) -> Played {
    let mut stage = Stage::new(setting, 250, unhurried(form.seed));
    stage.schedule();
    stage.start_all();
    stage.receiver.wait_for(60, 60);
    stage.terminate();
    let run = stage.run().expect("the database answers");
    let so_far = stage.receiver.log().mails;
    assert!(so_far < stage.people, "the run was over before the signal");
    assert_eq!((run["in_doubt"].as_u64(), run["sent"].as_u64()), (Some(0), Some(so_far as u64)), "{run}");
    stage.start_all();
    played(stage.judge())
}

/// Paused within a second on all nodes, resumed to the end.
pub fn pause(setting: Setting, form: &Form) -> Played {
    let people = 300 + 400 * setting.nodes;
    let slow = Manners { seed: form.seed, command_ms: 10, message_ms: 20, ..Manners::default() };
    let mut stage = Stage::new(setting, people, slow);
    stage.schedule();
    stage.start_all();
    stage.receiver.wait_for(50, 60);
    assert_eq!(stage.run_command("pause").exits(0).json()["state"], "paused");
    std::thread::sleep(Duration::from_secs(1));
    let at_a_second = stage.receiver.log().mails;
    // Long enough for four more mails on every connection.
    std::thread::sleep(Duration::from_millis(400));
    let later = stage.receiver.log().mails;
    // What was in its body at that moment still ends.
    assert_eq!(later, at_a_second, "mails still left more than a second after the pause");
    assert!(later < people, "the run was over before the pause");
    wait_until("everything that left is recorded", 20, || {
        std::thread::sleep(Duration::from_millis(100));
        stage.run().filter(|run| run["sent"].as_u64() == Some(later as u64))
    });
    stage.receiver.manners(|manners| (manners.command_ms, manners.message_ms) = (0, 0));
    stage.run_command("resume").exits(0);
    played(stage.judge())
}

/// No relay from the start: nobody is consumed.
pub fn relay_down(setting: Setting, form: &Form) -> Played {
    let mut stage = Stage::new(setting, 120, Manners { seed: form.seed, ..Manners::default() });
    stage.receiver.kill();
    stage.schedule();
    stage.start_all();
    let address = format!("127.0.0.1:{}", stage.receiver.port());
    for node in stage.nodes.iter_mut().flatten() {
        node.wait_for_line(&address, 30);
    }
    let run = stage.run().expect("the database answers");
    assert_eq!((run["due"].as_u64(), run["state"].as_str()), (Some(120), Some("sending")), "{run}");
    stage.receiver.come_up();
    played(stage.judge())
}

/// The relay is killed in the middle, twice, and comes back.
pub fn relay_killed(setting: Setting, form: &Form) -> Played {
    let mut stage = Stage::new(setting, 300, unhurried(form.seed));
    stage.schedule();
    stage.start_all();
    for after in [60, 140] {
        stage.receiver.wait_for(after, 60);
        stage.receiver.kill();
        stage.more_doubt += CONNECTIONS * setting.nodes;
        // Away long enough that the nodes look for it in vain.
        std::thread::sleep(Duration::from_millis(800));
        stage.receiver.come_up();
    }
    played(stage.judge())
}

/// Some are told "later" twice, some "never".
pub fn refusals(setting: Setting, form: &Form) -> Played {
    let manners = Manners { seed: form.seed, later: 250, tries: 2, never: 150, ..Manners::default() };
    let mut stage = Stage::new(setting, if form.long { 2_000 } else { 240 }, manners);
    stage.schedule();
    stage.start_all();
    stage.finish();
    let log = stage.receiver.log();
    assert!(!log.later.is_empty() && !log.never.is_empty(), "nobody was refused: another seed");
    assert!(log.later.iter().all(|to| log.taken.contains_key(to)), "somebody told \"later\" was not tried again");
    played(stage.judge())
}

/// The connection closes after the final dot: in doubt, each by name, whether it arrived or not.
pub fn closed(setting: Setting, form: &Form) -> Played {
    let manners = Manners { seed: form.seed, close: 60, ..Manners::default() };
    let mut stage = Stage::new(setting, 240, manners);
    stage.schedule();
    stage.start_all();
    stage.finish();
    let closed = stage.receiver.log().closed;
    assert!(!closed.is_empty(), "no connection was closed: another seed");
    stage.more_doubt = closed.len();
    let shown = stage.run_command("show").exits(0).json();
    let named: std::collections::BTreeSet<String> =
        shown["in_doubt_mails"].as_array().unwrap().iter().map(|mail| mail["email"].as_str().unwrap().to_owned()).collect();
    assert_eq!(named, closed, "those in doubt are those whose connection was closed");
    played(stage.judge())
}

/// Nodes and commands that all start in the same moment make one run.
pub fn same_second(setting: Setting, form: &Form) -> Played {
    let mut stage = Stage::new(setting, 250, Manners { seed: form.seed, message_ms: 3, ..Manners::default() });
    stage.start_all();
    let commands: Vec<_> = (0..2).map(|_| stage.shop.command(&["send", "weekly", "--json", "--wait", "30"]).spawn()).collect();
    stage.finish();
    for command in commands {
        let (code, output) = command.wait(60);
        assert_eq!(code, 0, "{}", output.join("\n"));
    }
    let runs = stage.shop.optin(&["run", "list", "--json"]).exits(0).json();
    assert_eq!(runs["runs"].as_array().map(Vec::len), Some(1), "{runs}");
    played(stage.judge())
}

/// A lease short enough to wait for: after so many seconds a node that does not renew it is dead.
pub const LEASE: (&str, &str) = ("OPTIN_DELIVERY__LEASE_SECONDS", "5");

/// Frozen past its lease; the others take over; woken, it doubles nothing.
pub fn frozen(setting: Setting, form: &Form, place: Option<&'static str>, resend: bool) -> Played {
    let mut stage = Stage::new(setting, 300, unhurried(form.seed));
    stage.resend = resend;
    let pass = if place == Some("audience_half") { 1 } else { 9 };
    let plan = place.map(|place| format!("{place}:{pass}:stop"));
    stage.wire(move |call, node| {
        let call = call.env(LEASE.0, LEASE.1).env("OPTIN_DELIVERY__IN_DOUBT", if resend { "resend" } else { "hold" });
        plan.iter().filter(|_| node == 0).fold(call, |call, plan| call.env("OPTIN_FAULT", plan))
    });
    stage.schedule();
    stage.start(0);
    if pass > 1 {
        stage.start_all();
    }
    let pid = stage.nodes[0].as_ref().expect("it runs").id();
    if place.is_none() {
        stage.receiver.wait_for(80, 60);
        stage.nodes[0].as_ref().expect("it runs").signal("STOP");
    }
    wait_until("node 0 is frozen", 60, || (state_of(pid) == Some('T')).then_some(()));
    stage.start_all();
    stage.kills = 1;
    stage.finish();
    let before = stage.receiver.log().mails;
    assert_eq!(state_of(pid), Some('T'), "the node was to sleep until the run was done");
    let frozen = stage.nodes[0].as_mut().expect("it runs");
    frozen.signal("CONT");
    // It finds out that it was declared dead, says so, and goes on under a new name.
    frozen.wait_for_line("declared", 30);
    // What it knows of mails that others found in doubt, it tells.
    wait_until("no mail is in doubt whose reply was read", 20, || {
        std::thread::sleep(Duration::from_millis(100));
        stage.doubtful_and_taken().is_empty().then_some(())
    });
    let line = stage.judge();
    assert!(resend || line.doubled == 0, "{before} mails before it woke");
    played(line)
}

/// Nodes freeze for longer or shorter than their lease, and wake while the run goes on.
pub fn frozen_again(setting: Setting, form: &Form) -> Played {
    let mut seed = Seed::new(form.seed, &format!("frozen again {setting:?}"));
    let manners = Manners { seed: form.seed, command_ms: 2, message_ms: 40, ..Manners::default() };
    let mut stage = Stage::new(setting, 3_000, manners);
    stage.wire(|call, _| call.env(LEASE.0, LEASE.1));
    stage.schedule();
    stage.start_all();
    stage.receiver.wait_for(80, 60);
    for _ in 0..4 {
        let node = seed.below(setting.nodes as u64) as usize;
        let node = stage.nodes[node].as_ref().expect("it runs");
        node.signal("STOP");
        std::thread::sleep(Duration::from_millis(500 + seed.below(7_000)));
        node.signal("CONT");
        std::thread::sleep(Duration::from_millis(seed.below(1_000)));
        stage.kills += 1;
    }
    played(stage.judge())
}
