//! Real orders, where they are there: `../shared/corpora` beside the checkout.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Cursor;
use std::path::PathBuf;
use std::process::Command;

use optin::behaviour::import::{Options, Outcome};
use optin::behaviour::money;

use crate::behaviour::World;
use crate::support::{TestDatabase, process::repository, say};

/// Rows of the large file that a test takes: its first months.
const ROWS: usize = 60_000;

fn corpus(file: &str) -> Option<PathBuf> {
    let file = repository().join("../shared/corpora").join(file);
    if !file.is_file() {
        say(format!("corpora: {} is not here", file.display()));
        return None;
    }
    Some(file)
}

async fn import(world: &World, text: String, create: bool, map: &[(&str, &str)]) -> Outcome {
    let map = map.iter().map(|(column, field)| ((*column).to_owned(), (*field).to_owned())).collect();
    let options = Options { map, currency: Some("TWD".to_owned()), ..Options::default() };
    let mut import = world.import(&options);
    import.recording.create = create;
    import.orders(Cursor::new(text), None, &mut |_| {}).await.unwrap()
}

/// The file as it is, with its cancellations, empty names, and rows of nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shop_s_invoices_add_up() {
    let Some(file) = corpus("online-retail/online_retail.csv.gz") else { return };
    let unpacked = Command::new("gzip").arg("-dc").arg(file).output().unwrap().stdout;
    let text: String = String::from_utf8_lossy(&unpacked).lines().take(ROWS + 1).fold(String::new(), |mut text, line| {
        writeln!(text, "{line}").unwrap();
        text
    });
    let (mut nobody, mut customers, mut invoices) = (0_u64, BTreeSet::new(), BTreeMap::<String, i64>::new());
    for line in text.lines().skip(1) {
        // Only descriptions have commas.
        let (head, tail): (Vec<&str>, Vec<&str>) = (line.split(',').collect(), line.rsplit(',').collect());
        let (invoice, customer) = (head[0], tail[1]);
        let (price, quantity) = (money::amount(tail[2]).unwrap(), tail[4].parse::<i64>().unwrap());
        if customer.is_empty() {
            // A return of nobody waits for its order like the others.
            nobody += u64::from(quantity > 0);
            continue;
        }
        customers.insert(customer.to_owned());
        if quantity > 0 {
            *invoices.entry(invoice.to_owned()).or_default() += price * quantity;
        }
    }
    let database = TestDatabase::sqlite();
    let world = World::new(&database).await;
    let mut tx = world.db.begin().await.unwrap();
    for (id, customer) in (1_i64..).zip(&customers) {
        let insert = "INSERT INTO contact (id, email, email_key, external_id, created_at, updated_at) VALUES ($1, $2, $2, $3, 0, 0)";
        tx.execute(insert, optin::args![id, format!("c{id}@shop.example"), customer]).await.unwrap();
    }
    tx.commit().await.unwrap();
    let map = [
        ("InvoiceNo", "order_id"),
        ("StockCode", "product_id"),
        ("Description", "product"),
        ("Quantity", "quantity"),
        ("InvoiceDate", "at"),
        ("UnitPrice", "unit_price"),
        ("CustomerID", "external_id"),
    ];
    let done = import(&world, text.clone(), false, &map).await;
    assert_eq!(
        (done.counts.read, done.counts.rejected, done.ignored.as_slice()),
        (ROWS as u64, nobody, ["Country".to_owned()].as_slice()),
        "{:?}",
        done.rejects
    );
    assert!(
        done.rejects.iter().all(|reject| reject.reason.starts_with("no person is named") && reject.column == "CustomerID"),
        "{:?}",
        done.rejects
    );
    assert_eq!(world.number("SELECT COUNT(*) FROM orders").await, invoices.len() as i64);
    assert_eq!(world.number("SELECT CAST(SUM(amount + refunded) AS BIGINT) FROM orders").await, invoices.values().sum::<i64>());
    assert!(done.waiting > 0, "cancellations have numbers of their own");
    world.sums_are_right().await;
    let again = import(&world, text, false, &map).await;
    assert_eq!(again.counts.unchanged, done.counts.added);
    say(format!("corpora/online-retail: {} invoices of {} customers, {} cancelled lines", invoices.len(), customers.len(), done.waiting));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purchases_of_people_nobody_knew_add_up() {
    let Some(file) = corpus("cdnow/CDNOW_sample.txt") else { return };
    let mut csv = String::from("order_id;email;at;amount;quantity\n");
    let (mut sum, mut count, mut people) = (0, 0, BTreeSet::new());
    for (number, line) in std::fs::read_to_string(file).unwrap().lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, customer, date, units, dollars] = words[..] else { continue };
        writeln!(csv, "{number};c{customer}@shop.example;{}-{}-{};{dollars};{units}", &date[..4], &date[4..6], &date[6..]).unwrap();
        (sum, count) = (sum + money::amount(dollars).unwrap(), count + 1);
        people.insert(customer.to_owned());
    }
    assert!(count > 6_000, "{count}");
    let database = TestDatabase::sqlite();
    let world = World::new(&database).await;
    let done = import(&world, csv, true, &[]).await;
    assert_eq!((done.counts.added, done.people), (count, people.len() as u64), "{:?}", done.rejects);
    assert_eq!(world.number("SELECT CAST(SUM(amount) AS BIGINT) FROM order_total").await, sum);
    assert_eq!(world.number("SELECT COUNT(*) FROM consent_event").await, 0);
    world.sums_are_right().await;
}
