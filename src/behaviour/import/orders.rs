//! Orders from a CSV, whose lines may stand anywhere in it.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use jiff::tz::TimeZone;
use sha2::{Digest as _, Sha256};

use super::columns::{
    AMOUNT, AT, CATEGORY, CURRENCY, Columns, EMAIL, EXTERNAL_ID, FIELDS, ORDER_ID, PRODUCT, PRODUCT_ID, QUANTITY, REFUNDED, UNIT_PRICE,
};
use super::spool::{Record, Spool};
use super::{Block, ColumnsError, Entry, Feed, ImportError, Message, Opened, Options};
use crate::behaviour::money::{self, Money};
use crate::behaviour::read::{moment, plain_key, plain_text};
use crate::behaviour::{
    GivenBack, Item, MAX_KEY_CHARACTERS, MAX_ORDER_LINES, MAX_PRODUCT_CHARACTERS, NewLine, NewOrder, NewRefund, PARTS, Who,
};
use crate::clock::Time;
use crate::contact::Address;
use crate::contact::csv::{Next, Reader, Row};
use crate::contact::import::{Domains, Reject};

/// Lines of one block: some look-ups and inserts in the database.
const BLOCK_LINES: usize = 10_000;
/// Rows after which the sorting says how far it is.
const TELL_ROWS: u64 = 50_000;

/// The reading thread: sorts the file by order, then checks order by order.
pub(super) fn read(source: impl Read, options: &Options, money: &Money, now: Time, feed: &Feed) -> Result<&'static str, ImportError> {
    let encoding = match &options.encoding {
        Some(label) => {
            Some(encoding_rs::Encoding::for_label(label.as_bytes()).ok_or_else(|| ImportError::Encoding { label: label.clone() })?)
        }
        None => None,
    };
    let (currency, rate) = match &options.currency {
        Some(currency) => money.rate(currency).map_err(ImportError::Currency)?,
        None => (money.currency.clone(), 1.0),
    };
    let mut reader = Reader::new(source, encoding)?;
    let mut row = Row::default();
    match reader.next(&mut row)? {
        Next::Row => {}
        Next::Fault(fault) => return Err(ImportError::Header { line: fault.line, reason: fault.reason }),
        Next::End => return Err(ColumnsError::Empty.into()),
    }
    let headers: Vec<String> = row.cells().map(str::to_owned).collect();
    let columns = Columns::of(&headers, &options.map)?;
    reader.expect_width(headers.len());
    let header = |field: usize| columns.places[field].and_then(|place| headers.get(place)).cloned();
    let names: Vec<(&'static str, String)> = (0..FIELDS.len()).filter_map(|field| Some((FIELDS[field], header(field)?))).collect();
    if !feed.send(Message::Opened(Opened { headers: names.clone(), ignored: columns.ignored.clone() })) {
        return Ok(reader.encoding());
    }
    let Some(spool) = sort(&mut reader, &mut row, &columns, &headers, feed)? else { return Ok(reader.encoding()) };
    let mut parser = Parser {
        names,
        zone: options.zone.clone(),
        money,
        now,
        currency: currency.into(),
        rate,
        domains: Domains::default(),
        shared: HashMap::new(),
    };
    hand_over(spool, &mut parser, reader.bytes_read(), feed)?;
    Ok(reader.encoding())
}

/// Reads all rows; nothing where nobody listens any more.
fn sort(
    reader: &mut Reader<impl Read>,
    row: &mut Row,
    columns: &Columns,
    headers: &[String],
    feed: &Feed,
) -> Result<Option<Spool>, ImportError> {
    let mut spool = Spool::new();
    let mut block = Block::default();
    let mut rows = 0;
    let order_header = columns.places[ORDER_ID].and_then(|place| headers.get(place)).cloned().unwrap_or_default();
    loop {
        match reader.next(row)? {
            Next::Row => {
                let cell = |field: usize| columns.places[field].map_or("", |place| row.cell(place));
                match plain_key(cell(ORDER_ID)) {
                    Ok(key) => {
                        let mut fields: Vec<String> = (0..FIELDS.len()).map(|field| cell(field).trim().to_owned()).collect();
                        fields.push(reader.original());
                        spool.push(Record { key: key.to_string(), line: row.line(), fields })?;
                    }
                    Err(reason) => {
                        block.rejects.push(Reject { line: row.line(), column: order_header.clone(), reason, row: reader.original() })
                    }
                }
            }
            Next::Fault(fault) => {
                let column = fault.cell.and_then(|cell| headers.get(cell)).cloned().unwrap_or_default();
                block.rejects.push(Reject { line: fault.line, column, reason: fault.reason, row: fault.text });
            }
            Next::End => break,
        }
        rows += 1;
        if rows % TELL_ROWS == 0 || block.rejects.len() >= BLOCK_LINES {
            block.bytes = reader.bytes_read();
            if !feed.send(Message::Block(std::mem::take(&mut block))) {
                return Ok(None);
            }
        }
    }
    block.bytes = reader.bytes_read();
    Ok(feed.send(Message::Block(block)).then_some(spool))
}

/// Puts the lines of each order together, and orders into blocks.
fn hand_over(spool: Spool, parser: &mut Parser<'_>, bytes: u64, feed: &Feed) -> Result<(), ImportError> {
    let mut sorted = spool.sorted()?;
    let mut block = Block { bytes, ..Block::default() };
    let (mut group, mut lines, mut too_many): (Vec<Record>, usize, bool) = (Vec::new(), 0, false);
    loop {
        let next = sorted.next()?;
        let goes_on = matches!((&next, group.last()), (Some(next), Some(last)) if next.key == last.key);
        if goes_on && group.len() == MAX_ORDER_LINES {
            // The rest of such an order passes by; its first line stays to know the others by.
            too_many = true;
            block.rejects.extend(group.drain(1..).map(too_many_lines));
        }
        if !goes_on {
            lines += group.len();
            if too_many {
                block.rejects.extend(group.drain(..).map(too_many_lines));
            } else if !group.is_empty() {
                parser.order(std::mem::take(&mut group), &mut block);
            }
            too_many = false;
        } else if too_many {
            block.rejects.extend(group.drain(1..).map(too_many_lines));
        }
        if lines >= BLOCK_LINES || block.rejects.len() >= BLOCK_LINES || next.is_none() {
            lines = 0;
            if !feed.send(Message::Block(std::mem::replace(&mut block, Block { bytes, ..Block::default() }))) {
                return Ok(());
            }
        }
        match next {
            Some(next) => group.push(next),
            None => return Ok(()),
        }
    }
}

fn too_many_lines(record: Record) -> Reject {
    rejected(record, String::new(), format!("an order has at most {MAX_ORDER_LINES} lines"))
}

fn rejected(mut record: Record, column: String, reason: String) -> Reject {
    Reject { line: record.line, column, reason, row: record.fields.pop().unwrap_or_default() }
}

/// Checks lines and makes orders of them.
struct Parser<'a> {
    /// Fields that have a column, with its header.
    names: Vec<(&'static str, String)>,
    zone: TimeZone,
    money: &'a Money,
    now: Time,
    /// Of lines that name none, and what it is worth.
    currency: Arc<str>,
    rate: f64,
    domains: Domains,
    /// Names of currencies.
    shared: HashMap<String, Result<(Arc<str>, f64), String>>,
}

/// A line, checked.
struct Checked {
    who: Who,
    at: Option<Time>,
    currency: Arc<str>,
    rate: f64,
    line: NewLine,
}

/// What is wrong with a line: fields and reasons.
type Faults = Vec<(usize, String)>;

impl Parser<'_> {
    /// Makes an order, or refunds, of the lines of one order number, or rejects them all.
    fn order(&mut self, records: Vec<Record>, block: &mut Block) {
        let mut checked: Vec<Result<Checked, Faults>> = records.iter().map(|record| self.line(record)).collect();
        agree(&mut checked);
        let first_wrong = records.iter().zip(&checked).find(|(_, checked)| checked.is_err()).map(|(record, _)| record.line);
        if let Some(first) = first_wrong {
            for (record, checked) in records.into_iter().zip(checked) {
                let (column, reason) = match checked {
                    Ok(_) => (String::new(), format!("line {first} of the same order is not taken")),
                    Err(faults) => self.words(&faults),
                };
                block.rejects.push(rejected(record, column, reason));
            }
            return;
        }
        let lines: Vec<Checked> = checked.into_iter().filter_map(Result::ok).collect();
        let key: Arc<str> = records.first().map_or_else(|| Arc::from(""), |record| Arc::from(record.key.as_str()));
        let who = lines.iter().map(|line| &line.who).find(|who| !who.is_empty()).cloned().unwrap_or_default();
        if lines.iter().all(|line| line.line.is_return()) {
            refunds(&key, &who, records, lines, block);
            return;
        }
        let bought = lines.iter().filter(|line| !line.line.is_return());
        let (Some(at), Some(first)) = (bought.filter_map(|line| line.at).min(), lines.first()) else { return };
        let (currency, rate) = (first.currency.clone(), first.rate);
        let order = NewOrder { key, who, at, currency, rate, revision: 0, lines: lines.into_iter().map(|line| line.line).collect() };
        let mut rows = records.into_iter().map(|mut record| (record.line, record.fields.pop().unwrap_or_default()));
        let Some((line, raw)) = rows.next() else { return };
        block.entries.push(Entry { item: Item::Order(order), line, raw, more: rows.collect() });
    }

    /// Headers and reasons of faults.
    fn words(&self, faults: &Faults) -> (String, String) {
        let header =
            |field: usize| self.names.iter().find(|(name, _)| *name == FIELDS[field]).map_or(FIELDS[field], |(_, header)| header.as_str());
        let columns: Vec<&str> = faults.iter().map(|(field, _)| header(*field)).collect();
        let reasons: Vec<&str> = faults.iter().map(|(_, reason)| reason.as_str()).collect();
        (columns.join(", "), reasons.join("; "))
    }

    fn line(&mut self, record: &Record) -> Result<Checked, Faults> {
        let mut faults = Faults::new();
        let cell = |field: usize| record.fields.get(field).map_or("", String::as_str);
        let who =
            Who { address: self.address(cell(EMAIL), &mut faults), external_id: optional(cell(EXTERNAL_ID), EXTERNAL_ID, &mut faults) };
        let at = Some(cell(AT)).filter(|text| !text.is_empty()).and_then(|text| fault(AT, moment(text, &self.zone, self.now), &mut faults));
        let (currency, rate) = match cell(CURRENCY) {
            "" => (self.currency.clone(), self.rate),
            text => fault(CURRENCY, self.rate(text), &mut faults).unwrap_or((self.currency.clone(), self.rate)),
        };
        let quantity = match cell(QUANTITY) {
            "" => Some(1.0),
            text => {
                let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && number.abs() < 1e9);
                fault(QUANTITY, number.ok_or_else(|| format!("`{}` is not a number such as `2`", cut(text))), &mut faults)
            }
        };
        let paid = match (cell(AMOUNT), cell(UNIT_PRICE)) {
            ("", "") => {
                faults.push((AMOUNT, "there is no amount: what was paid for this line".to_owned()));
                None
            }
            ("", price) => fault(UNIT_PRICE, money::amount(price), &mut faults)
                .zip(quantity)
                .and_then(|(price, quantity)| fault(UNIT_PRICE, money::from_number(price as f64 * quantity / PARTS as f64), &mut faults)),
            (amount, _) => fault(AMOUNT, money::amount(amount), &mut faults),
        };
        let given_back = fault(REFUNDED, given_back(cell(REFUNDED)), &mut faults).unwrap_or(GivenBack::Nothing);
        let mut text = |field: usize, characters: usize| fault(field, plain_text(cell(field), characters), &mut faults).flatten();
        let product_id = text(PRODUCT_ID, MAX_KEY_CHARACTERS);
        let product = text(PRODUCT, MAX_PRODUCT_CHARACTERS);
        let category = text(CATEGORY, MAX_KEY_CHARACTERS);
        match (paid, quantity) {
            (Some(paid), Some(quantity)) if faults.is_empty() => {
                // A return may be told by its quantity alone, or by its amount.
                let paid = if quantity < 0.0 { -paid.abs() } else { paid };
                Ok(Checked { who, at, currency, rate, line: NewLine { product_id, product, category, quantity, paid, given_back } })
            }
            _ => Err(faults),
        }
    }

    fn address(&mut self, text: &str, faults: &mut Faults) -> Option<Address> {
        let domains = &mut self.domains;
        let found = (!text.is_empty()).then(|| Address::parse_with(text, |text| domains.get(text)).map_err(|error| error.to_string()))?;
        fault(EMAIL, found, faults)
    }

    fn rate(&mut self, text: &str) -> Result<(Arc<str>, f64), String> {
        if let Some(known) = self.shared.get(text) {
            return known.clone();
        }
        let found = self.money.rate(text).map(|(code, rate)| (Arc::from(code), rate));
        // A column of anything but currencies must not fill the memory.
        if self.shared.len() < 1_000 {
            self.shared.insert(text.to_owned(), found.clone());
        }
        found
    }
}

/// Lines of one order have one person, one currency, and a time.
fn agree(lines: &mut [Result<Checked, Faults>]) {
    let (mut address, mut number, mut currency): (Option<Address>, Option<Arc<str>>, Option<Arc<str>>) = (None, None, None);
    for line in lines.iter_mut() {
        let Ok(checked) = line else { continue };
        let mut faults = Faults::new();
        let keys = |address: &Option<Address>| address.as_ref().map(|address| address.key().to_owned());
        if checked.who.address.is_some() && address.is_some() && keys(&address) != keys(&checked.who.address) {
            faults.push((EMAIL, "another line of this order names another person".to_owned()));
        }
        if checked.who.external_id.is_some() && number.is_some() && number != checked.who.external_id {
            faults.push((EXTERNAL_ID, "another line of this order names another person".to_owned()));
        }
        if currency.as_ref().is_some_and(|currency| *currency != checked.currency) {
            faults.push((CURRENCY, "another line of this order has another currency".to_owned()));
        }
        address = address.take().or_else(|| checked.who.address.clone());
        number = number.take().or_else(|| checked.who.external_id.clone());
        currency = currency.take().or_else(|| Some(checked.currency.clone()));
        if !faults.is_empty() {
            *line = Err(faults);
        }
    }
    let is_return = |line: &Checked| line.line.is_return();
    let whole = lines.iter().flatten().any(|line| !is_return(line));
    let timed = lines.iter().flatten().any(|line| line.at.is_some() && (!whole || !is_return(line)));
    if let Some(first) = lines.iter_mut().find(|line| line.as_ref().is_ok_and(|line| !whole || !is_return(line))).filter(|_| !timed) {
        *first = Err(vec![(AT, "there is no time: when the order was placed".to_owned())]);
    }
}

/// A file that only gives back: what was bought came before, or is still to come. A refund is known again by its order,
/// product and time, so that its amount can be corrected.
fn refunds(key: &Arc<str>, who: &Who, records: Vec<Record>, lines: Vec<Checked>, block: &mut Block) {
    let mut seen: HashMap<(Option<Arc<str>>, Option<Time>), u32> = HashMap::new();
    let at = lines.iter().filter_map(|line| line.at).min().unwrap_or_default();
    for (mut record, line) in records.into_iter().zip(lines) {
        let product = line.line.product_id.clone().or_else(|| line.line.product.clone());
        let count = seen.entry((product.clone(), line.at)).or_default();
        *count += 1;
        let moment = line.at.unwrap_or(at);
        let name = format!("{key}\n{}\n{}\n{count}", product.as_deref().unwrap_or_default(), moment.millis());
        let digest: String = Sha256::digest(name.as_bytes())[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let refund = NewRefund {
            key: format!("file:{digest}").into(),
            order: key.clone(),
            who: who.clone(),
            at: moment,
            product_id: line.line.product_id,
            product: line.line.product,
            amount: Some(line.line.paid.abs()),
            currency: line.currency,
            rate: line.rate,
            revision: 0,
        };
        block.entries.push(Entry {
            item: Item::Refund(refund),
            line: record.line,
            raw: record.fields.pop().unwrap_or_default(),
            more: Vec::new(),
        });
    }
}

fn fault<T>(field: usize, found: Result<T, String>, faults: &mut Faults) -> Option<T> {
    found.map_err(|reason| faults.push((field, reason))).ok()
}

fn optional(text: &str, field: usize, faults: &mut Faults) -> Option<Arc<str>> {
    if text.is_empty() { None } else { fault(field, plain_key(text), faults) }
}

fn cut(text: &str) -> String {
    text.chars().take(40).collect()
}

/// `true` and its like, or an amount.
fn given_back(text: &str) -> Result<GivenBack, String> {
    let is = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    if text.is_empty() || is(&["false", "no", "n", "f", "否"]) {
        return Ok(GivenBack::Nothing);
    }
    if is(&["true", "yes", "y", "t", "是"]) {
        return Ok(GivenBack::All);
    }
    match money::amount(text) {
        Ok(0) => Ok(GivenBack::Nothing),
        Ok(part) => Ok(GivenBack::Part(part.abs())),
        Err(_) => Err(format!("`{}` is neither an amount nor `true` or `false`", cut(text))),
    }
}
