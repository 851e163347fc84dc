//! What is left of an order after all that was given back: a pure rule, the same whatever came first.

use sha2::{Digest as _, Sha256};

use super::money::convert;
use super::{GivenBack, NewOrder};

/// A line of an order, in the instance's currency.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// The sender's id of the product.
    pub product_id: Option<String>,
    /// Its name.
    pub product: Option<String>,
    /// Its category.
    pub category: Option<String>,
    /// How many; negative for a return.
    pub quantity: f64,
    /// What was paid at first; negative for a return.
    pub paid: i64,
    /// What the line itself says was refunded (more than nothing also for a line that cost nothing).
    pub given_back: i64,
    /// What is left.
    pub amount: i64,
    /// Nothing is left, or it is a return.
    pub refunded: bool,
}

impl Line {
    fn is_return(&self) -> bool {
        self.paid < 0 || self.quantity < 0.0
    }

    /// A product by its id, or where there is none by its name.
    fn is_of(&self, product_id: Option<&str>, product: Option<&str>) -> bool {
        match (product_id, product) {
            (Some(id), _) => self.product_id.as_deref() == Some(id),
            (None, Some(name)) => self.product.as_deref() == Some(name),
            (None, None) => true,
        }
    }
}

/// A refund that came by itself, in the instance's currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refund {
    /// Its id.
    pub key: String,
    /// Of this product only.
    pub product_id: Option<String>,
    /// The same by name.
    pub product: Option<String>,
    /// How much; `None`: all of it.
    pub amount: Option<i64>,
}

/// An order's sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    /// What is left of it.
    pub amount: i64,
    /// What was given back.
    pub refunded: i64,
    /// Nothing is left of what was bought.
    pub void: bool,
}

/// Takes what was given back off the lines: first what each line says itself, then returns among the lines, then
/// refunds, those of an amount before those of everything. What a product's lines cannot bear goes off the order as a
/// whole. Refunds may stand in any order.
pub fn settle(lines: &mut [Line], refunds: &[Refund]) -> Sums {
    let mut touched = vec![false; lines.len()];
    for (line, touched) in lines.iter_mut().zip(&mut touched) {
        line.amount = if line.is_return() { line.paid } else { (line.paid - line.given_back.max(0)).max(0) };
        *touched = line.given_back > 0 && !line.is_return();
    }
    let mut loose: i64 = 0;
    let returns: Vec<Line> = lines.iter().filter(|line| line.is_return()).cloned().collect();
    for returned in &returns {
        let beyond = take(lines, &mut touched, returned.product_id.as_deref(), returned.product.as_deref(), Some(returned.paid.abs()));
        loose = loose.saturating_add(beyond);
    }
    let mut refunds: Vec<&Refund> = refunds.iter().collect();
    refunds.sort_by(|left, right| left.amount.is_none().cmp(&right.amount.is_none()).then(left.key.cmp(&right.key)));
    for refund in refunds {
        let beyond = take(lines, &mut touched, refund.product_id.as_deref(), refund.product.as_deref(), refund.amount);
        loose = loose.saturating_add(beyond);
    }
    let bought = |line: &Line| !line.is_return();
    let paid: i64 = lines.iter().filter(|line| bought(line)).map(|line| line.paid).sum();
    let amount = lines.iter().filter(|line| bought(line)).map(|line| line.amount).sum::<i64>().saturating_sub(loose).max(0);
    for (line, touched) in lines.iter_mut().zip(&touched) {
        line.refunded = line.is_return() || (*touched && line.amount == 0);
    }
    let void = lines.iter().all(|line| line.refunded) || (amount == 0 && paid > 0);
    if void {
        for line in lines.iter_mut().filter(|line| bought(line)) {
            (line.amount, line.refunded) = (0, true);
        }
    }
    Sums { amount, refunded: paid - amount, void }
}

/// Takes an amount (or all) off the lines of a product; answers what they could not bear.
fn take(lines: &mut [Line], touched: &mut [bool], product_id: Option<&str>, product: Option<&str>, amount: Option<i64>) -> i64 {
    let mut left = amount.unwrap_or(i64::MAX);
    for (line, touched) in lines.iter_mut().zip(touched) {
        if line.is_return() || !line.is_of(product_id, product) || (left == 0 && amount != Some(0)) {
            continue;
        }
        let off = left.min(line.amount);
        line.amount -= off;
        left -= off;
        // A return of what cost nothing gives back that line.
        *touched = *touched || off > 0 || amount.is_none() || (amount == Some(0) && line.amount == 0);
    }
    amount.map_or(0, |_| left)
}

/// The lines of an order as its sender has it, in the instance's currency at `rate`.
pub fn lines_of(order: &NewOrder, rate: f64) -> Vec<Line> {
    let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().map(str::to_owned);
    let line = |line: &super::NewLine| {
        let paid = convert(line.paid, rate);
        let given_back = match line.given_back {
            GivenBack::Nothing => 0,
            GivenBack::Part(part) => convert(part, rate),
            GivenBack::All => paid.max(1),
        };
        Line {
            product_id: text(&line.product_id),
            product: text(&line.product),
            category: text(&line.category),
            quantity: line.quantity,
            paid,
            given_back,
            amount: paid,
            refunded: false,
        }
    };
    order.lines.iter().map(line).collect()
}

/// A digest of all that the sender says of an order, but for whose it is.
pub fn digest(order: &NewOrder) -> String {
    let mut hash = Sha256::new();
    let mut put = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    };
    put(&order.currency);
    put(&order.at.millis().to_string());
    for line in &order.lines {
        for text in [&line.product_id, &line.product, &line.category] {
            put(text.as_deref().unwrap_or("\0"));
        }
        put(&format!("{} {} {:?}", line.quantity, line.paid, line.given_back));
    }
    // Half of it: nobody forges their own orders.
    hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(product: &str, quantity: f64, paid: i64, given_back: i64) -> Line {
        Line { product_id: Some(product.to_owned()), product: None, category: None, quantity, paid, given_back, amount: 0, refunded: false }
    }

    fn refund(key: &str, product: Option<&str>, amount: Option<i64>) -> Refund {
        Refund { key: key.to_owned(), product_id: product.map(str::to_owned), product: None, amount }
    }

    fn amounts(lines: &[Line]) -> Vec<i64> {
        lines.iter().map(|line| line.amount).collect()
    }

    #[test]
    fn what_was_given_back_is_taken_off() {
        let mut lines = vec![line("a", 2.0, 100, 0), line("b", 1.0, 50, 20), line("a", -1.0, -40, 0)];
        assert_eq!(settle(&mut lines, &[]), Sums { amount: 90, refunded: 60, void: false });
        assert_eq!(amounts(&lines), [60, 30, -40]);
        assert!(lines[2].refunded && !lines[0].refunded);
        // 100 of `b` is more than its line bears: 70 go off the rest, which has 60.
        assert_eq!(settle(&mut lines, &[refund("r", Some("b"), Some(100))]), Sums { amount: 0, refunded: 150, void: true });
    }

    #[test]
    fn an_order_of_which_nothing_is_left_is_void() {
        let mut lines = vec![line("a", 1.0, 100, 0), line("gift", 1.0, 0, 0)];
        assert!(!settle(&mut lines, &[refund("r", Some("a"), Some(99))]).void);
        assert!(settle(&mut lines, &[refund("r", None, None)]).void && lines.iter().all(|line| line.refunded));
        let mut free = vec![line("gift", 1.0, 0, 0)];
        assert_eq!(settle(&mut free, &[]), Sums { amount: 0, refunded: 0, void: false });
        assert!(settle(&mut free, &[refund("r", Some("gift"), None)]).void);
        let mut free = vec![line("gift", 1.0, 0, 1)];
        assert!(settle(&mut free, &[]).void);
    }

    #[test]
    fn the_order_of_refunds_does_not_matter() {
        let refunds =
            [refund("1", Some("a"), Some(70)), refund("2", None, Some(30)), refund("3", Some("a"), None), refund("4", Some("x"), Some(5))];
        let mut seen = Vec::new();
        for turn in 0..refunds.len() {
            let mut turned = refunds.to_vec();
            turned.rotate_left(turn);
            let mut lines = vec![line("a", 1.0, 60, 0), line("b", 1.0, 80, 0), line("a", 1.0, 60, 0)];
            let sums = settle(&mut lines, &turned);
            seen.push((sums, amounts(&lines)));
        }
        assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
        assert_eq!(seen[0].0.amount, 45);
    }
}
