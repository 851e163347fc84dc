//! The program as a process: a clean environment, its exit code, its two outputs.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What a finished process left.
#[derive(Debug)]
pub struct Output {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// The one JSON document on standard output.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON document on standard output: {error}\n{self}"))
    }

    /// Goes on only if the exit code is `code`; otherwise shows everything.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "unexpected exit code\n{self}");
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit code {}\n--- standard output\n{}\n--- standard error\n{}", self.code, self.stdout, self.stderr)
    }
}

/// A call of the program, being put together.
pub struct Call {
    command: Command,
    input: Vec<u8>,
}

/// Runs the program to its end.
pub fn optin(args: &[&str]) -> Output {
    command(args).run()
}

/// A call of the program with a scrubbed environment.
pub fn command(args: &[&str]) -> Call {
    call(env!("CARGO_BIN_EXE_optin"), args)
}

/// The same for any program.
pub fn call(program: &str, args: &[&str]) -> Call {
    let mut command = Command::new(program);
    command.env_clear().args(args);
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("TMPDIR", std::env::temp_dir()).env("RUST_BACKTRACE", "1");
    Call { command, input: Vec::new() }
}

impl Call {
    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// The process's clock starts here and runs on.
    pub fn clock(self, time: &str) -> Self {
        self.env("OPTIN_CLOCK", time)
    }

    /// Makes its random numbers reproducible.
    pub fn seed(self, seed: u64) -> Self {
        self.env("OPTIN_SEED", seed.to_string())
    }

    /// Starts it under another program, such as `ip netns exec NAME`.
    pub fn under(self, program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args).arg(self.command.get_program()).args(self.command.get_args());
        command.env_clear().envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(dir) = self.command.get_current_dir() {
            command.current_dir(dir);
        }
        Call { command, input: self.input }
    }

    /// Its working directory.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What it reads from standard input.
    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Output {
        let mut child =
            self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut stdin = child.stdin.take().expect("piped");
        let writer = std::thread::spawn(move || stdin.write_all(&self.input));
        let output = child.wait_with_output().expect("the program ends");
        let _ = writer.join();
        Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts it and lets it run.
    pub fn spawn(mut self) -> Running {
        let mut child = self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let (sender, lines) = channel();
        for (name, stream) in [
            ("stdout", Box::new(child.stdout.take().expect("piped")) as Box<dyn std::io::Read + Send>),
            ("stderr", Box::new(child.stderr.take().expect("piped"))),
        ] {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = sender.send(format!("{name}: {line}"));
                }
            });
        }
        Running { child, lines, seen: Vec::new() }
    }
}

/// A process that runs; killed when dropped.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for an output line that holds `part`; it comes with `stdout: ` or `stderr: ` before it.
    pub fn wait_for_line(&mut self, part: &str, seconds: u64) -> String {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no line with `{part}` within {seconds} s; the output:\n{}", self.seen.join("\n")),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("the process ended without a line with `{part}`; the output:\n{}", self.seen.join("\n"))
                }
            }
        }
    }

    /// The last lines it wrote so far.
    pub fn tail(&mut self, count: usize) -> String {
        self.seen.extend(self.lines.try_iter());
        self.seen[self.seen.len().saturating_sub(count)..].join("\n")
    }

    /// Sends a signal, such as `TERM` or `KILL`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().expect("`kill` runs");
        assert!(status.success(), "cannot send {name}");
    }

    /// Waits for its end; answers the exit code (-1 after a signal) and all lines it wrote.
    pub fn wait(mut self, seconds: u64) -> (i32, Vec<String>) {
        let status = super::wait_until("the process ends", seconds, || self.child.try_wait().expect("its state"));
        let mut seen = std::mem::take(&mut self.seen);
        seen.extend(self.lines.iter());
        (status.code().unwrap_or(-1), seen)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the repository is.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
