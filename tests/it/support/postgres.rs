//! A private PostgreSQL cluster, started once per test process and gone with it.
//!
//! The server runs under a shell that reads from a pipe whose other end this process holds. When
//! this process ends, in whatever way, the pipe closes, the shell stops the server and removes its
//! folder. So nothing has to be ended by name and no orphan stays, also after `kill -9`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{Connection as _, Executor as _};

use super::{free_port, wait_until};

/// Makes the folder, the cluster and the server; then waits for the end of its input. Also when we
/// are gone before it is ready (nobody reads `started`), it ends and cleans up. A shell starts
/// background jobs with QUIT ignored; until the server has set its own handler, only TERM works.
/// `$1`: folder of the binaries, `$2`: port, `$3`: whether a commit is written before it is answered.
/// A line of input is the signal that ends the server before it is started again.
const SCRIPT: &str = r#"
umask 077
cd /
dir=$(mktemp -d "${TMPDIR:-/tmp}/optin-postgres-XXXXXX") || exit 1
server=
trap '[ -z "$server" ] || { kill -TERM "$server"; kill -QUIT "$server"; wait "$server"; } 2>/dev/null; rm -rf "$dir"' EXIT
trap '' PIPE
trap 'exit 1' HUP INT TERM
"$1/initdb" -D "$dir/data" -U optin -A trust -E UTF8 --locale=C.UTF-8 \
  --locale-provider=icu --icu-locale=en-US --no-sync >"$dir/initdb.log" 2>&1 || {
  echo "failed: $(tail -n 5 "$dir/initdb.log" | tr '\n' ' ')"; exit 1
}
serve() {
  "$1/postgres" -D "$dir/data" -p "$2" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
    -c fsync=off -c synchronous_commit="$3" -c full_page_writes=off -c max_connections=400 \
    -c shared_buffers=64MB -c autovacuum=off -c timezone=UTC >>"$dir/server.log" 2>&1 </dev/null &
  server=$!
  echo started
}
serve "$@"
while read -r signal; do
  kill "-$signal" "$server"
  wait "$server"
  serve "$@"
done
"#;

// The ICU collation sorts unlike bytes, as databases out there do: a statement that forgets
// `COLLATE "C"` is noticed.

/// Attempts to find a port nobody else takes between our look and the server's start.
const START_ATTEMPTS: u32 = 3;

struct Cluster {
    port: u16,
    /// Holding it holds its standard input, which keeps the server alive.
    shell: Child,
    said: BufReader<ChildStdout>,
}

impl Cluster {
    /// Waits until the server that the script just started answers.
    fn wait_for_start(&mut self) -> Result<(), String> {
        let mut line = String::new();
        self.said.read_line(&mut line).map_err(|error| error.to_string())?;
        if line.trim() != "started" {
            return Err(line);
        }
        let (port, shell) = (self.port, &mut self.shell);
        let answered = wait_until("PostgreSQL accepts connections", 60, || match run(port, "postgres", "SELECT 1") {
            Ok(()) => Some(true),
            Err(_) => shell.try_wait().ok().flatten().map(|_| false),
        });
        if answered { Ok(()) } else { Err("the server ended".to_owned()) }
    }
}

/// A server of one's own, for those who restart it. A commit survives the end of the server's
/// process, which is not so in the shared one.
pub struct Server(Cluster);

impl Server {
    /// Starts it.
    pub fn start_durable() -> Server {
        Server(start_with_retries("on"))
    }

    /// Makes an empty database; answers its URL.
    pub fn create_database(&self, name: &str) -> String {
        run(self.0.port, "postgres", &format!("CREATE DATABASE {name} TEMPLATE template0")).expect("a fresh database");
        format!("postgres://optin@127.0.0.1:{}/{name}", self.0.port)
    }

    /// Ends it with `signal` (`INT`: sessions end at once; `QUIT`: as after a crash) and starts it again;
    /// it answers again then.
    pub fn restart(&mut self, signal: &str) {
        writeln!(self.0.shell.stdin.as_mut().expect("piped"), "{signal}").expect("the script reads");
        self.0.wait_for_start().expect("the server comes back");
    }
}

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| start_with_retries("off"))
}

fn start_with_retries(synchronous_commit: &str) -> Cluster {
    let binaries = binaries();
    let mut failures = Vec::new();
    for _ in 0..START_ATTEMPTS {
        match start(&binaries, synchronous_commit) {
            Ok(cluster) => return cluster,
            Err(failure) => failures.push(failure),
        }
    }
    panic!("PostgreSQL did not start: {failures:?}");
}

/// Where `initdb` and `postgres` are: on the path, or where Debian keeps them (newest first).
fn binaries() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "the tests look for a program of the system")]
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        let mut found: Vec<PathBuf> = versions.flatten().map(|version| version.path().join("bin")).collect();
        found.sort_by_key(|bin| std::cmp::Reverse(version_of(bin)));
        folders.extend(found);
    }
    let has_both = |folder: &PathBuf| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    folders.into_iter().find(has_both).unwrap_or_else(|| {
        panic!("the tests need PostgreSQL (`initdb` and `postgres`): `sudo apt-get install postgresql`, or run `./test`, which does it")
    })
}

fn version_of(bin: &Path) -> u32 {
    bin.parent().and_then(Path::file_name).and_then(|name| name.to_str()).and_then(|name| name.parse().ok()).unwrap_or(0)
}

fn start(binaries: &Path, synchronous_commit: &str) -> Result<Cluster, String> {
    let port = free_port();
    // PostgreSQL refuses to run as root; Debian's package brings the user `postgres`.
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "sh"]);
        command
    } else {
        Command::new("sh")
    };
    let mut shell = command
        .args(["-c", SCRIPT, "sh"])
        .arg(binaries)
        .arg(port.to_string())
        .arg(synchronous_commit)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // A group of its own: Ctrl-C ends us, and through the pipe the server.
        .process_group(0)
        .spawn()
        .map_err(|error| error.to_string())?;
    let said = BufReader::new(shell.stdout.take().expect("piped"));
    let mut cluster = Cluster { port, shell, said };
    cluster.wait_for_start().map(|()| cluster)
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| status.lines().find_map(|line| line.strip_prefix("Uid:").map(|ids| ids.split_whitespace().nth(1) == Some("0"))))
        .unwrap_or(false)
}

/// Makes an empty database; answers its name and its URL.
pub fn create_database() -> (String, String) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let port = cluster().port;
    let database = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    run(port, "postgres", &format!("CREATE DATABASE {database} TEMPLATE template0")).expect("a fresh database");
    let url = format!("postgres://optin@127.0.0.1:{port}/{database}");
    (database, url)
}

/// Drops a database, also while somebody is connected.
pub fn drop_database(database: &str) {
    let _ = run(cluster().port, "postgres", &format!("DROP DATABASE {database} WITH (FORCE)"));
}

/// Runs one statement, on a thread of its own: the caller may be inside an async runtime.
fn run(port: u16, database: &str, sql: &str) -> Result<(), String> {
    let url = format!("postgres://optin@127.0.0.1:{port}/{database}?sslmode=disable");
    let sql = sql.to_owned();
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut connection = sqlx::PgConnection::connect(&url).await?;
            connection.execute(sqlx::AssertSqlSafe(sql)).await?;
            connection.close().await
        })
    };
    std::thread::spawn(work).join().expect("no panic").map_err(|error: sqlx::Error| error.to_string())
}
