//! Amounts and currencies.

use std::collections::BTreeMap;

use super::PARTS;
use crate::config::Behaviour;
use crate::config::diagnostics::did_you_mean;

/// Largest amount, in units, and largest order, in units of the instance's currency: a container of tea in dong or
/// rupiah is one, and sums of 90,000 such orders fit.
const MAX_UNITS: f64 = 1e10;

/// The currency amounts are added up in, and what others are worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Money {
    /// The instance's currency.
    pub currency: String,
    rates: BTreeMap<String, f64>,
}

impl Money {
    /// From `[behaviour]`.
    pub fn new(behaviour: &Behaviour) -> Self {
        Money { currency: behaviour.currency.clone(), rates: behaviour.rates.clone() }
    }

    /// A currency as written, and what one unit of it is worth.
    ///
    /// # Errors
    /// Where no rate is known.
    pub fn rate(&self, text: &str) -> Result<(String, f64), String> {
        let code = text.trim().to_ascii_uppercase();
        if code == self.currency {
            return Ok((code, 1.0));
        }
        if let Some(rate) = self.rates.get(&code) {
            return Ok((code, *rate));
        }
        let known = || self.rates.keys().map(String::as_str).chain([self.currency.as_str()]);
        let hint = match did_you_mean(&code, known()) {
            Some(meant) => format!("did you mean `{meant}`? Else"),
            None => "where it is right,".to_owned(),
        };
        let cut: String = code.chars().take(20).collect();
        Err(format!("no rate is known for the currency `{cut}`; {hint} add it under `[behaviour.rates]` in optin.toml"))
    }
}

/// Reads `1234.5` as an amount: exact, half a part is rounded away from zero.
///
/// # Errors
/// What is wrong.
pub fn amount(text: &str) -> Result<i64, String> {
    let text = text.trim();
    let cut: String = text.chars().take(40).collect();
    let wrong = || format!("`{cut}` is not an amount such as `1234.5`, without currency and thousands' marks");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && part.is_empty())
        || !plain(whole)
        || !plain(part)
        || digits.ends_with('.') && part.is_empty() && whole.is_empty()
    {
        // Programs write small and large numbers with an exponent.
        return match text.parse::<f64>() {
            Ok(number) if text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E')) => {
                from_number(number)
            }
            _ => Err(wrong()),
        };
    }
    let units: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| too_large())? };
    if units as f64 > MAX_UNITS {
        return Err(too_large());
    }
    let mut parts = 0;
    for place in 0..4 {
        parts = parts * 10 + part.as_bytes().get(place).map_or(0, |digit| i64::from(digit - b'0'));
    }
    let up = part.as_bytes().get(4).is_some_and(|digit| *digit >= b'5');
    Ok(sign * (units * PARTS + parts + i64::from(up)))
}

/// The same of a JSON number.
///
/// # Errors
/// Where it is too large.
pub fn from_number(number: f64) -> Result<i64, String> {
    if !number.is_finite() || number.abs() > MAX_UNITS {
        return Err(too_large());
    }
    Ok((number * PARTS as f64).round() as i64)
}

fn too_large() -> String {
    format!("an amount is at most {MAX_UNITS}")
}

/// Whether an order of these amounts, returns among them, is one that can be added up; in the instance's currency.
///
/// # Errors
/// It is too large.
pub fn check_order(amounts: impl Iterator<Item = i64>) -> Result<(), String> {
    let sum: i128 = amounts.map(|amount| i128::from(amount.unsigned_abs())).sum();
    if sum as f64 > MAX_UNITS * PARTS as f64 {
        return Err(format!("an order is at most {MAX_UNITS} in the currency of the instance"));
    }
    Ok(())
}

/// An amount in another currency.
pub fn convert(amount: i64, rate: f64) -> i64 {
    if rate == 1.0 { amount } else { (amount as f64 * rate).round() as i64 }
}

/// An amount for people: two decimals, more where there are.
pub fn shown(amount: i64) -> String {
    let sign = if amount < 0 { "-" } else { "" };
    let (units, parts) = (amount.unsigned_abs() / PARTS.unsigned_abs(), amount.unsigned_abs() % PARTS.unsigned_abs());
    if parts % 100 == 0 { format!("{sign}{units}.{:02}", parts / 100) } else { format!("{sign}{units}.{parts:04}") }
}

/// An amount in units, for JSON.
pub fn units(amount: i64) -> f64 {
    amount as f64 / PARTS as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        for (text, parts) in [
            ("12", 120_000),
            ("0.1", 1_000),
            (".5", 5_000),
            ("2.55", 25_500),
            ("-3.39", -33_900),
            ("+1", 10_000),
            ("1.00005", 10_001),
            ("1e2", 1_000_000),
            ("7.", 70_000),
        ] {
            assert_eq!(amount(text), Ok(parts), "{text}");
        }
        for text in ["", "-", ".", "1,000", "$5", "12 EUR", "inf", "nan", "100000000000", "99999999999999999999", "１２"] {
            assert!(amount(text).is_err(), "{text}");
        }
        assert_eq!((shown(25_500), shown(-1), shown(10_000)), ("2.55".to_owned(), "-0.0001".to_owned(), "1.00".to_owned()));
        assert_eq!(convert(10_000, 32.1), 321_000);
    }
}
