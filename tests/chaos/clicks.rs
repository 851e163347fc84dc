//! People follow links while the process that serves them is killed: whatever was answered is in the database, once.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use optin::db::Db;
use optin::token::{Keys, Purpose};

use crate::stage::{Line, Setting};
use crate::support::{Instance, TestDatabase, instance, process::Running};
use crate::{Form, Played, Seed};

/// Links of one mail.
const LINKS: i64 = 5;
/// People who click at a time.
const CLIENTS: usize = 12;
const SECRET: &str = "the secret of the clicks in the kill suite";
const TARGET: &str = "https://tea.example/oolong";
/// How long an answer may take before its client goes away without it.
const PATIENCE: Duration = Duration::from_secs(5);

/// A mail and one of its links.
type Click = (i64, i64);

/// Killed several times at random moments, started again each time.
pub fn killed(setting: Setting, form: &Form) -> Played {
    let mut seed = Seed::new(form.seed, &format!("clicks {setting:?}"));
    let (mails, kills) = if form.long { (6_000, 20) } else { (1_500, 5) };
    let database = if setting.engine == "sqlite" { TestDatabase::sqlite() } else { TestDatabase::postgres() };
    let shop = instance(&database, &[]).with_env("OPTIN_SECRET", SECRET);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let db = runtime.block_on(database.open());
    runtime.block_on(write_mails(&db, mails));

    let clicks: Mutex<Vec<Click>> = Mutex::new((1..=mails).flat_map(|mail| (0..LINKS).map(move |link| (mail, link))).collect());
    let (answered, over) = (Mutex::new(HashSet::new()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let keys = Keys::new(SECRET, &[]);
                while !over.load(Ordering::Relaxed) {
                    let Some(click) = clicks.lock().unwrap().pop() else { return };
                    if follow(&shop, &keys, click) {
                        answered.lock().unwrap().insert(click);
                    }
                }
            });
        }
        let mut serving = serve(&shop);
        for kill in 1..=kills {
            let before = answered.lock().unwrap().len();
            let until = Instant::now() + Duration::from_secs(30);
            let some = 60 + seed.below(120) as usize;
            while answered.lock().unwrap().len() < before + some && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(2));
            }
            std::thread::sleep(Duration::from_millis(seed.below(15)));
            // `kill -9`
            drop(serving);
            if kill == kills {
                over.store(true, Ordering::Relaxed);
            }
            serving = serve(&shop);
        }
        serving.signal("TERM");
        assert_eq!(serving.wait(60).0, 0);
    });
    let answered = answered.into_inner().unwrap();
    let rows = runtime.block_on(rows(&db));
    let known: HashSet<Click> = rows.iter().copied().collect();
    let lost = answered.difference(&known).count();
    let doubled = rows.len() - known.len();
    assert_eq!((lost, doubled), (0, 0), "of {} answered clicks and {} rows", answered.len(), rows.len());
    assert!(answered.len() >= kills * 60, "only {} clicks were answered", answered.len());
    Played::Line(Line { kills, people: answered.len(), lost, doubled, in_doubt: 0, bound: 0 })
}

fn serve(shop: &Instance) -> Running {
    let mut serving = shop.command(&["serve", "--only", "web"]).spawn();
    serving.wait_for_line("optin is ready", 30);
    serving
}

async fn write_mails(db: &Db, mails: i64) {
    let mut tx = db.begin().await.unwrap();
    tx.execute(
        "INSERT INTO run (id, campaign, topic_id, firing, state, scheduled_at, created_at, definition_hash, definition, excluded,
                          audience, audience_cursor, audience_done)
         VALUES (50, 'weekly', 1, 'f', 'done', 0, 0, '', '', '{}', 1, 0, TRUE)",
        Vec::new(),
    )
    .await
    .unwrap();
    for mail in 1..=mails {
        for statement in [
            format!(
                "INSERT INTO contact (id, email, email_key, created_at, updated_at)
                 VALUES ({mail}, '{mail}@tea.example', '{mail}@tea.example', 0, 0)"
            ),
            format!(
                "INSERT INTO delivery (id, run_id, contact_id, state, due_at, attempts, changed_at)
                 VALUES ({mail}, 50, {mail}, 'sent', 0, 1, 0)"
            ),
        ] {
            tx.execute(&statement, Vec::new()).await.unwrap();
        }
    }
    tx.commit().await.unwrap();
}

async fn rows(db: &Db) -> Vec<Click> {
    let rows = db.fetch_all("SELECT delivery_id, link FROM hit WHERE kind = 'click'", Vec::new()).await.unwrap();
    rows.iter().map(|row| (row.get(0).unwrap(), row.get(1).unwrap())).collect()
}

/// Whether the redirect came, whole.
fn follow(shop: &Instance, keys: &Keys, (mail, link): Click) -> bool {
    let token = keys.sign_bound(Purpose::Click, &[mail, link], TARGET);
    let path = format!("/c/{token}/{}", URL_SAFE_NO_PAD.encode(TARGET));
    let Ok(mut connection) = TcpStream::connect(("127.0.0.1", shop.port())) else {
        // Nobody is there just now; this one is not followed.
        std::thread::sleep(Duration::from_millis(5));
        return false;
    };
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let asked =
        write!(connection, "GET {path} HTTP/1.1\r\nHost: tea.example\r\nUser-Agent: Mozilla/5.0 (X11)\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    asked.is_ok() && connection.read_to_end(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.1 302") && answer.ends_with(b"\r\n\r\n")
}
