//! Contacts from files into both databases.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use optin::args;
use optin::clock::Time;
use optin::config::AttributeType;
use optin::consent::suppression::{self, Digests};
use optin::contact::import::{AfterBatch, Import, ImportCounts, ImportError, ImportOptions, ImportOutcome, ImportedRow, NothingElse};
use optin::contact::{Address, AttributeValue, Contact, Date, Schema, ops, sql};
use optin::db::{Db, DbError, Tx};
use optin::entropy::Entropy;
use optin::token::Keys;

use crate::support::on_each_database;

const NOW: Time = Time::from_millis(1_790_000_000_000);

fn schema() -> Schema {
    use AttributeType::*;
    let declared = [("city", Text), ("age", Number), ("vip", Boolean), ("birthday", Date), ("interests", List)];
    Schema::new(&BTreeMap::from(declared.map(|(name, kind)| (name.to_owned(), kind))))
}

/// A rejects file in memory.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Done {
    outcome: ImportOutcome,
    rejects: String,
}

async fn run(
    db: &Db,
    source: impl Read + Send + 'static,
    options: ImportOptions,
    after: &mut impl AfterBatch,
) -> Result<Done, ImportError> {
    let schema = schema();
    ops::ensure_columns(db, &schema).await.unwrap();
    let sink = Sink::default();
    let import = Import { db, schema: &schema, entropy: &Entropy::system(), now: NOW, options: &options };
    let outcome = import.run(source, Some(Box::new(sink.clone())), after, &mut |_| {}).await?;
    let rejects = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    Ok(Done { outcome, rejects })
}

async fn import(db: &Db, text: &str) -> Done {
    run(db, io::Cursor::new(text.as_bytes().to_vec()), ImportOptions::default(), &mut NothingElse).await.unwrap()
}

async fn contact(db: &Db, key: &str) -> Contact {
    sql::by_email_key(&mut db.clone(), &schema(), key).await.unwrap().unwrap_or_else(|| panic!("no contact `{key}`"))
}

async fn number_of_contacts(db: &Db) -> i64 {
    db.fetch_one("SELECT COUNT(*) FROM contact", args![]).await.unwrap().get(0).unwrap()
}

fn counts(read: u64, added: u64, updated: u64, unchanged: u64, rejected: u64) -> ImportCounts {
    ImportCounts { read, added, updated, unchanged, rejected, suppressed: 0 }
}

on_each_database!(
    async fn rows_become_contacts_with_typed_attributes(database) {
        let db = database.open().await;
        let done = import(
            &db,
            "E-Mail;First name;Locale;Timezone;City;Age;VIP;Birthday;Interests;Shoe size\n\
             Joe@Example.COM;Joe;zh_tw;asia/taipei;Taipei;41.5;yes;1984-02-29;oolong; x\n\
             用户@例子.example;小明;;;台北;;;;\"oolong;green\";43\n",
        )
        .await;
        assert_eq!(done.outcome.counts, counts(2, 2, 0, 0, 0));
        assert_eq!(done.outcome.delimiter, ';');
        assert_eq!(done.outcome.mapping.ignored.len(), 1);
        assert_eq!(done.rejects, "");
        let joe = contact(&db, "joe@example.com").await;
        assert_eq!((joe.email.as_str(), joe.first_name.as_deref()), ("Joe@example.com", Some("Joe")));
        assert_eq!((joe.locale.as_deref(), joe.timezone.as_deref()), (Some("zh-TW"), Some("Asia/Taipei")));
        let expected = [
            ("age", AttributeValue::Number(41.5)),
            ("birthday", AttributeValue::Date(Date::parse("1984-02-29").unwrap())),
            ("city", AttributeValue::Text("Taipei".to_owned())),
            ("interests", AttributeValue::List(vec!["oolong".to_owned()])),
            ("vip", AttributeValue::Boolean(true)),
        ];
        assert_eq!(joe.attributes, BTreeMap::from(expected.map(|(name, value)| (name.to_owned(), value))));
        let ming = contact(&db, "用户@xn--fsqu00a.example").await;
        assert_eq!(ming.email, "用户@例子.example");
        assert_eq!(ming.attributes["interests"], AttributeValue::List(vec!["oolong".to_owned(), "green".to_owned()]));
        assert_eq!(ming.attributes.len(), 2);
    }
);

on_each_database!(
    async fn a_second_import_updates_what_differs_and_an_empty_cell_leaves_what_is_there(database) {
        let db = database.open().await;
        let first = "email,first_name,city,age\na@x.example,Ann,Rome,30\nb@x.example,Ben,Oslo,31\nc@x.example,Cy,Bonn,32\n";
        assert_eq!(import(&db, first).await.outcome.counts, counts(3, 3, 0, 0, 0));
        assert_eq!(import(&db, first).await.outcome.counts, counts(3, 0, 0, 3, 0));
        let before = contact(&db, "b@x.example").await;
        let second = "email,city,age\nA@X.example,,\nb@x.example,,32\nd@x.example,Kyiv,\nC@x.example,Bonn,32\n";
        let done = import(&db, second).await;
        // `A` and `C` are written otherwise than before: the address as shown is theirs to choose.
        assert_eq!(done.outcome.counts, counts(4, 1, 3, 0, 0));
        let ben = contact(&db, "b@x.example").await;
        assert_eq!((ben.id, ben.first_name.as_deref()), (before.id, Some("Ben")));
        assert_eq!(ben.attributes["city"], AttributeValue::Text("Oslo".to_owned()));
        assert_eq!(ben.attributes["age"], AttributeValue::Number(32.0));
        assert_eq!(contact(&db, "a@x.example").await.email, "A@x.example");
        assert_eq!(number_of_contacts(&db).await, 4);
    }
);

on_each_database!(
    async fn rows_of_one_address_are_merged_the_later_cell_winning(database) {
        let db = database.open().await;
        let done = import(
            &db,
            "email,first_name,city\nz@x.example,Zoe,\na@x.example,Ann,Rome\nA@x.example,,Oslo\na@x.example,,\nz@x.example,Zoe,\n",
        )
        .await;
        assert_eq!(done.outcome.counts, counts(5, 2, 2, 1, 0));
        let ann = contact(&db, "a@x.example").await;
        assert_eq!((ann.email.as_str(), ann.first_name.as_deref()), ("a@x.example", Some("Ann")));
        assert_eq!(ann.attributes["city"], AttributeValue::Text("Oslo".to_owned()));
    }
);

on_each_database!(
    async fn duplicates_across_batches_are_merged_and_every_row_is_counted_once(database) {
        let db = database.open().await;
        let mut text = String::from("email,city\n");
        for round in 0..3 {
            for person in 0..7_000 {
                text.push_str(&format!("p{person}@x.example,city{}\n", if round == 2 { 1 } else { round }));
            }
        }
        let done = import(&db, &text).await;
        assert_eq!(done.outcome.counts, counts(21_000, 7_000, 7_000, 7_000, 0));
        assert_eq!(number_of_contacts(&db).await, 7_000);
        let first = db.fetch_one("SELECT COUNT(*) FROM contact WHERE t_city = 'city1'", args![]).await.unwrap();
        assert_eq!(first.get::<i64>(0).unwrap(), 7_000);
    }
);

on_each_database!(
    async fn a_bad_row_is_rejected_with_line_column_and_reason_and_harms_no_other(database) {
        let db = database.open().await;
        let text = "email,city,age,birthday\n\
            a@x.example,Rome,30,\n\
            not an address,Rome,30,\n\
            b@x.example,Rome,abc,2026-02-30\n\
            c@x.example,Rome\n\
            d@x.example,\"open,30,\n\
            e@x.example,\"Oslo\",31,\n\
            f@x.example,\0,31,\n\
            g@x.example,=cmd|' /C calc'!A0,31,\n\
            =1+1,x,1,\n\
            \"h@x.example\r\nBcc: i@x.example\",x,1,\n";
        let done = import(&db, text).await;
        assert_eq!(done.outcome.counts, counts(10, 3, 0, 0, 7));
        let lines: Vec<(u64, &str)> = done.outcome.rejects.iter().map(|reject| (reject.line, reject.column.as_str())).collect();
        assert_eq!(lines, [(3, "email"), (4, "age, birthday"), (5, ""), (6, "city"), (8, "city"), (10, "email"), (11, "email")]);
        assert!(done.rejects.starts_with("line,column,reason,row\r\n3,email,"), "{}", done.rejects);
        assert!(done.rejects.contains("4,\"age, birthday\",\"`abc` is not a number such as `1234.5`; `2026-02-30` is not a date"), "{}", done.rejects);
        assert!(done.rejects.contains("\"'=1+1,x,1,\""), "{}", done.rejects);
        let city = &contact(&db, "g@x.example").await.attributes["city"];
        assert_eq!(*city, AttributeValue::Text("=cmd|' /C calc'!A0".to_owned()));
    }
);

on_each_database!(
    async fn a_dry_run_counts_the_same_and_leaves_nothing(database) {
        let db = database.open().await;
        import(&db, "email,city\na@x.example,Rome\n").await;
        let text = "email,city\na@x.example,Oslo\nb@x.example,Oslo\nb@x.example,Oslo\nbad,\n";
        let dry = ImportOptions { dry_run: true, ..ImportOptions::default() };
        let done = run(&db, io::Cursor::new(text.as_bytes().to_vec()), dry, &mut NothingElse).await.unwrap();
        assert_eq!(done.outcome.counts, counts(4, 1, 1, 1, 1));
        assert_eq!(number_of_contacts(&db).await, 1);
        assert!(done.rejects.contains("5,email,"));
        assert_eq!(import(&db, text).await.outcome.counts, done.outcome.counts);
    }
);

on_each_database!(
    async fn suppressed_addresses_are_kept_as_contacts_and_counted(database) {
        let db = database.open().await;
        let insert = "INSERT INTO suppression (email_key, reason, source, at) VALUES ($1, 'complaint', 'test', 1)";
        db.execute(insert, args!["joe@x.example"]).await.unwrap();
        let mut seen = Collect::default();
        let text = "email\nann@x.example\nJoe@x.example\n";
        let done = run(&db, io::Cursor::new(text.as_bytes().to_vec()), ImportOptions::default(), &mut seen).await.unwrap();
        assert_eq!(done.outcome.counts, ImportCounts { suppressed: 1, ..counts(2, 2, 0, 0, 0) });
        let joe = contact(&db, "joe@x.example").await;
        let row = seen.0.iter().find(|row| row.contact_id == joe.id).unwrap();
        assert_eq!((row.line, row.added, row.suppressed), (3, true, true));
    }
);

/// Notes what it is told.
#[derive(Default)]
struct Collect(Vec<ImportedRow>);

impl AfterBatch for Collect {
    async fn suppressed(&mut self, tx: &mut Tx, keys: &[Arc<str>]) -> Result<Vec<usize>, DbError> {
        suppression::screen(tx, &Digests::new(&Keys::new("secret", &[])), keys, NOW).await
    }

    async fn batch(&mut self, _tx: &mut Tx, rows: &[ImportedRow]) -> Result<(), DbError> {
        self.0.extend_from_slice(rows);
        Ok(())
    }
}

/// Writes in each batch, and fails after so many rows.
struct Fail(usize);

impl AfterBatch for Fail {
    async fn suppressed(&mut self, _tx: &mut Tx, _keys: &[Arc<str>]) -> Result<Vec<usize>, DbError> {
        Ok(Vec::new())
    }

    async fn batch(&mut self, tx: &mut Tx, rows: &[ImportedRow]) -> Result<(), DbError> {
        for row in rows.iter().take(1) {
            tx.execute(
                "INSERT INTO topic (id, name) VALUES ($1, $2)",
                args![row.contact_id, rows.len().to_string() + &row.line.to_string()],
            )
            .await?;
        }
        self.0 = self.0.checked_sub(rows.len()).ok_or_else(|| DbError::Unexpected("the test wants it so".to_owned()))?;
        Ok(())
    }
}

on_each_database!(
    async fn what_follows_a_batch_is_in_its_transaction(database) {
        const ROWS: i64 = 130_000;
        let db = database.open().await;
        let mut text = String::from("email\n");
        for person in 0..ROWS {
            text.push_str(&format!("p{person}@x.example\n"));
        }
        let error = run(&db, io::Cursor::new(text.clone().into_bytes()), ImportOptions::default(), &mut Fail(120_000)).await.err().unwrap();
        let ImportError::Database { line, .. } = error else { panic!("{error}") };
        let stored = number_of_contacts(&db).await;
        assert_eq!(line, stored as u64 + 1, "the lines named as stored are stored");
        assert!(stored > 0 && stored < 120_000, "{stored}");
        let topics: i64 = db.fetch_one("SELECT COUNT(*) FROM topic WHERE id IN (SELECT id FROM contact)", args![]).await.unwrap().get(0).unwrap();
        let all: i64 = db.fetch_one("SELECT COUNT(*) FROM topic", args![]).await.unwrap().get(0).unwrap();
        assert!(topics > 0 && topics == all, "{topics} of {all} belong to a stored contact");
        let mut seen = Collect::default();
        let done = run(&db, io::Cursor::new(text.into_bytes()), ImportOptions::default(), &mut seen).await.unwrap();
        assert_eq!(done.outcome.counts, counts(ROWS as u64, (ROWS - stored) as u64, 0, stored as u64, 0));
        assert_eq!(seen.0.len() as i64, ROWS);
        assert_eq!(seen.0.iter().filter(|row| row.added).count() as i64, ROWS - stored);
    }
);

on_each_database!(
    async fn a_file_that_cannot_be_mapped_says_what_it_holds(database) {
        let db = database.open().await;
        let message = |text: &'static str, map: &'static [(&str, &str)]| {
            let map = map.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            let db = db.clone();
            async move {
                let options = ImportOptions { map, ..ImportOptions::default() };
                run(&db, io::Cursor::new(text), options, &mut NothingElse).await.err().unwrap().to_string()
            }
        };
        assert!(message("name,town\nx,y\n", &[]).await.starts_with("no column holds email addresses; the columns are `name`, `town`"));
        assert!(message("", &[]).await.starts_with("the file is empty"));
        assert!(message("email\nx\n", &[("Twon", "city")]).await.contains("no column `Twon`"));
        assert!(message("email,Town\nx,\n", &[("Town", "ctiy")]).await.contains("did you mean `city`?"));
        assert!(message("\"email\nx\n", &[]).await.starts_with("the header in line 1 cannot be read"));
        assert_eq!(number_of_contacts(&db).await, 0);
    }
);

on_each_database!(
    async fn one_contact_is_added_or_changed(database) {
        let db = database.open().await;
        ops::ensure_columns(&db, &schema()).await.unwrap();
        let entropy = Entropy::system();
        let address = Address::parse("Joe@x.example").unwrap();
        let text = |text: &str| AttributeValue::Text(text.to_owned());
        let mut tx = db.begin().await.unwrap();
        let fields = [("first_name", text("Joe")), ("age", AttributeValue::Number(41.0))];
        let first = ops::upsert(&mut tx, &schema(), &entropy, NOW, &address, &fields).await.unwrap();
        assert!(first.added);
        let address = Address::parse("joe@X.example").unwrap();
        let fields = [("city", text("Rome")), ("interests", AttributeValue::List(vec!["tea".to_owned()]))];
        let second = ops::upsert(&mut tx, &schema(), &entropy, NOW, &address, &fields).await.unwrap();
        assert_eq!((second.id, second.added), (first.id, false));
        for (name, value) in [("email", text("x@y.example")), ("nothing", text("x")), ("age", text("x"))] {
            assert!(ops::upsert(&mut tx, &schema(), &entropy, NOW, &address, &[(name, value)]).await.is_err(), "{name}");
        }
        tx.commit().await.unwrap();
        let joe = contact(&db, "joe@x.example").await;
        assert_eq!((joe.email.as_str(), joe.first_name.as_deref()), ("joe@x.example", Some("Joe")));
        assert_eq!(joe.attributes.keys().collect::<Vec<_>>(), ["age", "city", "interests"]);
    }
);

on_each_database!(
    async fn encodings_of_chinese_files_are_read(database) {
        let db = database.open().await;
        let rows = |prefix: &str, name: &str, city: &str| format!("邮箱\t姓名\tcity\n{}", (0..50).map(|i| format!("{prefix}{i}@x.example\t{name}\t{city}\n")).collect::<String>());
        let simplified = rows("s", "吴秀兰", "四川省桂英县闵行兴城街");
        let traditional = rows("t", "彭俊宏", "三重縣竹北市民有巷").replace("邮箱", "電子郵件");
        let utf_16: Vec<u8> = rows("u", "吴秀兰", "四川省").encode_utf16().flat_map(u16::to_le_bytes).collect();
        for bytes in [encoding_rs::GB18030.encode(&simplified).0.into_owned(), encoding_rs::BIG5.encode(&traditional).0.into_owned(), utf_16] {
            let done = run(&db, io::Cursor::new(bytes), ImportOptions::default(), &mut NothingElse).await.unwrap();
            assert_eq!(done.outcome.counts, counts(50, 50, 0, 0, 0), "{}", done.outcome.encoding);
        }
        assert_eq!(contact(&db, "s7@x.example").await.first_name.as_deref(), Some("吴秀兰"));
        assert_eq!(contact(&db, "t7@x.example").await.attributes["city"], AttributeValue::Text("三重縣竹北市民有巷".to_owned()));
        assert_eq!(contact(&db, "u7@x.example").await.first_name.as_deref(), Some("吴秀兰"));
    }
);
