//! Databases that restart, fill up, are locked, read-only or cut off.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use optin::db::{Db, OpenOptions};

use crate::kills::LEASE;
use crate::receiver::Manners;
use crate::stage::{Setting, Stage};
use crate::support::postgres::Server;
use crate::support::{TestDatabase, free_port};
use crate::{Form, Played, Seed};

fn unhurried(seed: u64) -> Manners {
    Manners { seed, command_ms: 1, message_ms: 12, ..Manners::default() }
}

/// PostgreSQL is restarted while nodes send: once in good order, once as after a crash.
pub fn postgres_restarts(setting: Setting, form: &Form) -> Played {
    let mut server = Server::start_durable();
    let mut database = TestDatabase::sqlite();
    (database.name, database.url) = ("postgres", server.create_database("chaos"));
    let mut stage = Stage::on(database, setting, 300, unhurried(form.seed));
    stage.schedule();
    stage.start_all();
    let restarts = if form.long { 8 } else { 2 };
    for restart in 0..restarts {
        stage.receiver.wait_for(50 + 200 * restart / restarts, 60);
        server.restart(if restart % 2 == 0 { "INT" } else { "QUIT" });
    }
    Played::Line(stage.judge())
}

/// Another process holds the write lock for longer than a statement waits for it.
pub fn locked(setting: Setting, form: &Form) -> Played {
    let mut stage = Stage::new(setting, 250, unhurried(form.seed));
    stage.schedule();
    stage.start_all();
    stage.receiver.wait_for(50, 60);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let url = stage.database.url.clone();
    let held = runtime
        .block_on(async { Db::open(&url, OpenOptions { relaxed: true, ..OpenOptions::default() }).await.unwrap().begin().await.unwrap() });
    stage.nodes[0].as_mut().expect("it runs").wait_for_line("locked", 30);
    runtime.block_on(held.rollback()).unwrap();
    Played::Line(stage.judge())
}

/// A file system of a few megabytes, gone when dropped.
struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    fn mount(megabytes: u32) -> Result<SmallDisk, String> {
        let folder = tempfile::Builder::new().prefix("optin-disk-").tempdir().map_err(|error| error.to_string())?.keep();
        let disk = SmallDisk { folder };
        disk.call("mount", &["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=0777"), "tmpfs"])?;
        Ok(disk)
    }

    fn call(&self, program: &str, args: &[&str]) -> Result<(), String> {
        let output = Command::new(program).args(args).arg(&self.folder).output().map_err(|error| format!("{program}: {error}"))?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
    }

    fn database(&self) -> TestDatabase {
        let mut database = TestDatabase::sqlite();
        database.url = format!("sqlite://{}", self.folder.join("optin.db").display());
        database
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// Takes every byte that is left.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        let block = [7; 4_096];
        while file.write_all(&block).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process of a scenario that failed may still have it open.
        let _ = self.call("umount", &["-l"]);
        let _ = std::fs::remove_dir(&self.folder);
    }
}

/// No space left: it says so, loses nobody, and goes on when there is some.
pub fn disk_full(setting: Setting, form: &Form) -> Played {
    let disk = match SmallDisk::mount(32) {
        Ok(disk) => disk,
        Err(reason) => return Played::Skipped(format!("a small file system cannot be mounted here: {reason}")),
    };
    let mut stage = Stage::on(disk.database(), setting, 300, unhurried(form.seed));
    stage.schedule();
    stage.start_all();
    stage.receiver.wait_for(50, 60);
    disk.fill();
    stage.nodes[0].as_mut().expect("it runs").wait_for_line("full", 30);
    assert!(stage.receiver.log().mails < stage.people, "the run was over before the disk was full");
    std::fs::remove_file(disk.filler()).unwrap();
    Played::Line(stage.judge())
}

/// A database that cannot be written: a clear message, exit code 2, nobody mailed.
pub fn read_only(setting: Setting, form: &Form) -> Played {
    let disk = match SmallDisk::mount(32) {
        Ok(disk) => disk,
        Err(reason) => return Played::Skipped(format!("a small file system cannot be mounted here: {reason}")),
    };
    let mut stage = Stage::on(disk.database(), setting, 60, Manners { seed: form.seed, ..Manners::default() });
    disk.call("mount", &["-o", "remount,ro"]).expect("it can be made read-only");
    let refused = stage.shop.command(&["send", "weekly", "--json"]).run().exits(2);
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert!(said.contains("read-only") || said.contains("readonly") || said.contains("can be written"), "not clear: {said}");
    assert!(!said.contains("panicked") && stage.receiver.log().mails == 0, "{said}");
    disk.call("mount", &["-o", "remount,rw"]).expect("it can be made writable");
    stage.schedule();
    stage.start_all();
    Played::Line(stage.judge())
}

/// A line to PostgreSQL that can be cut: bytes wait, nobody is told.
struct Cable {
    port: u16,
    cut: Arc<AtomicBool>,
}

impl Cable {
    fn lay(listen: &str, to: u16) -> Cable {
        let port = free_port();
        let listener = TcpListener::bind((listen, port)).unwrap_or_else(|error| panic!("cannot listen on {listen}:{port}: {error}"));
        let cut = Arc::new(AtomicBool::new(false));
        let seen = cut.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { continue };
                for (from, into) in [(near, far_too), (far, near_too)] {
                    let cut = seen.clone();
                    std::thread::spawn(move || pump(from, into, &cut));
                }
            }
        });
        Cable { port, cut }
    }

    fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
    }
}

fn pump(mut from: TcpStream, mut into: TcpStream, cut: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count) = from.read(&mut buffer) {
        while cut.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        if count == 0 || into.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = into.shutdown(std::net::Shutdown::Both);
}

/// `postgres://optin@127.0.0.1:PORT/NAME`: its port.
fn port_of(url: &str) -> u16 {
    let after_host = url.rsplit_once(':').map_or("", |(_, rest)| rest);
    after_host.split('/').next().and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no port in {url}"))
}

/// One node's database is silent for longer than its lease; the others take over.
pub fn cut_off(setting: Setting, form: &Form) -> Played {
    let mut stage = Stage::new(setting, 300, unhurried(form.seed));
    let port = port_of(&stage.database.url);
    let cable = Cable::lay("127.0.0.1", port);
    let url = stage.database.url.replace(&format!(":{port}/"), &format!(":{}/", cable.port));
    stage.wire(move |call, node| {
        let call = call.env(LEASE.0, LEASE.1);
        if node == 0 { call.env("OPTIN_DATABASE__URL", &url) } else { call }
    });
    stage.schedule();
    stage.start_all();
    stage.receiver.wait_for(80, 60);
    cable.cut(true);
    stage.kills = 1;
    stage.finish();
    cable.cut(false);
    stage.nodes[0].as_mut().expect("it runs").wait_for_line("declared", 60);
    Played::Line(stage.judge())
}

/// One node's line to the database stands still again and again, for less than its lease or more.
pub fn flicker(setting: Setting, form: &Form) -> Played {
    let mut seed = Seed::new(form.seed, &format!("flicker {setting:?}"));
    let manners = Manners { seed: form.seed, command_ms: 2, message_ms: 40, ..Manners::default() };
    let mut stage = Stage::new(setting, 2_000, manners);
    let port = port_of(&stage.database.url);
    let cable = Cable::lay("127.0.0.1", port);
    let url = stage.database.url.replace(&format!(":{port}/"), &format!(":{}/", cable.port));
    stage.wire(move |call, node| {
        let call = call.env(LEASE.0, LEASE.1);
        if node == 0 { call.env("OPTIN_DATABASE__URL", &url) } else { call }
    });
    stage.schedule();
    stage.start_all();
    stage.receiver.wait_for(80, 60);
    for _ in 0..6 {
        cable.cut(true);
        std::thread::sleep(Duration::from_millis(100 + seed.below(7_000)));
        cable.cut(false);
        std::thread::sleep(Duration::from_millis(seed.below(1_500)));
        stage.kills += 1;
    }
    Played::Line(stage.judge())
}

/// A network name space with two lines to us: one for the database, one for the relay.
struct Namespace {
    name: String,
    number: u32,
}

impl Namespace {
    fn make() -> Result<Namespace, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = (std::process::id() * 4 + NEXT.fetch_add(1, Ordering::Relaxed)) % 250;
        let space = Namespace { name: format!("optin-chaos-{number}"), number };
        ip(&["netns", "add", &space.name])?;
        for line in ["d", "r"] {
            let (ours, theirs) = (space.device(line), format!("optin{line}n{number}"));
            ip(&["link", "add", &ours, "type", "veth", "peer", "name", &theirs])?;
            ip(&["link", "set", &theirs, "netns", &space.name])?;
            ip(&["addr", "add", &format!("{}/30", space.address(line, 1)), "dev", &ours])?;
            ip(&["link", "set", &ours, "up"])?;
            ip(&["netns", "exec", &space.name, "ip", "addr", "add", &format!("{}/30", space.address(line, 2)), "dev", &theirs])?;
            ip(&["netns", "exec", &space.name, "ip", "link", "set", &theirs, "up"])?;
        }
        Ok(space)
    }

    fn device(&self, line: &str) -> String {
        format!("optin{line}h{}", self.number)
    }

    fn address(&self, line: &str, end: u32) -> String {
        format!("10.21{}.{}.{end}", if line == "d" { 3 } else { 4 }, self.number)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        for line in ["d", "r"] {
            let _ = ip(&["link", "del", &self.device(line)]);
        }
        let _ = ip(&["netns", "del", &self.name]);
    }
}

/// Where `ip` is: not on everybody's path.
fn ip_program() -> &'static str {
    ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"].into_iter().find(|path| Path::new(path).exists()).unwrap_or("ip")
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new(ip_program()).args(args).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim())) }
}

/// One node's line to the database goes down, while the relay stays in reach.
pub fn link_down(setting: Setting, form: &Form) -> Played {
    let space = match Namespace::make() {
        Ok(space) => space,
        Err(reason) => return Played::Skipped(format!("no network name space can be made here: {reason}")),
    };
    let mut stage = Stage::new(setting, 300, unhurried(form.seed));
    let port = port_of(&stage.database.url);
    let database = space.address("d", 1);
    let cable = Cable::lay(&database, port);
    let url = stage.database.url.replace(&format!("127.0.0.1:{port}/"), &format!("{database}:{}/", cable.port));
    let relay = format!("smtp://{}:{}", space.address("r", 1), stage.receiver.port());
    let name = space.name.clone();
    stage.wire(move |call, node| {
        let call = call.env(LEASE.0, LEASE.1);
        if node != 0 {
            return call;
        }
        call.env("OPTIN_DATABASE__URL", &url).env("OPTIN_SMTP__URL", &relay).under(ip_program(), &["netns", "exec", &name])
    });
    stage.schedule();
    stage.start_all();
    stage.receiver.wait_for(80, 60);
    ip(&["link", "set", &space.device("d"), "down"]).expect("the line can be cut");
    stage.kills = 1;
    stage.finish();
    ip(&["link", "set", &space.device("d"), "up"]).expect("the line can be mended");
    stage.nodes[0].as_mut().expect("it runs").wait_for_line("declared", 90);
    let line = stage.judge();
    drop(space);
    Played::Line(line)
}
