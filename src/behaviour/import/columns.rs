//! Which column of a file of orders is which field.

use crate::config::diagnostics::did_you_mean;
use crate::contact::import::mapping::{list, plain};

/// What a line of an order says; the place in this list is the place in [`Columns`].
pub const FIELDS: [&str; 12] = [
    "order_id",
    "email",
    "external_id",
    "at",
    "amount",
    "unit_price",
    "currency",
    "product_id",
    "product",
    "category",
    "quantity",
    "refunded",
];
pub const ORDER_ID: usize = 0;
pub const EMAIL: usize = 1;
pub const EXTERNAL_ID: usize = 2;
pub const AT: usize = 3;
pub const AMOUNT: usize = 4;
pub const UNIT_PRICE: usize = 5;
pub const CURRENCY: usize = 6;
pub const PRODUCT_ID: usize = 7;
pub const PRODUCT: usize = 8;
pub const CATEGORY: usize = 9;
pub const QUANTITY: usize = 10;
pub const REFUNDED: usize = 11;

/// Other names, as `plain` writes them. Small on purpose: a wrong guess is worse than a column reported as ignored.
const SYNONYMS: &[(usize, &[&str])] = &[
    (ORDER_ID, &["order_number", "order_no", "订单号", "訂單編號"]),
    (EMAIL, &["e_mail", "email_address", "邮箱", "電子郵件"]),
    (EXTERNAL_ID, &["customer_id", "customer_number", "客户编号", "客戶編號"]),
    (AT, &["ordered_at", "order_date", "date", "下单时间", "訂購時間"]),
    (AMOUNT, &["line_total", "金额", "金額"]),
    (PRODUCT_ID, &["sku"]),
    (PRODUCT, &["product_name", "商品名称", "商品名稱"]),
];

/// Why a file's columns cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ColumnsError {
    /// The file has no header line.
    #[error("the file is empty: its first line must name the columns")]
    Empty,
    /// `--map` names a column that is not there.
    #[error("the file has no column `{column}`; its columns are {headers}{meant}")]
    UnknownColumn {
        /// As given.
        column: String,
        /// What is there.
        headers: String,
        /// The nearest one, in words.
        meant: String,
    },
    /// `--map` names a field that is not there.
    #[error("an order has no field `{field}`{meant}; fields are {fields}")]
    UnknownField {
        /// As given.
        field: String,
        /// What is there.
        fields: String,
        /// The nearest one, in words.
        meant: String,
    },
    /// Two columns are mapped to one field.
    #[error("the field `{0}` is mapped from two columns: keep one of the two")]
    Twice(&'static str),
    /// Something that every order needs.
    #[error("no column holds {what}; the columns are {headers}: name one with `--map \"COLUMN={field}\"`")]
    Missing {
        /// In words.
        what: &'static str,
        /// What is there.
        headers: String,
        /// What to map it to.
        field: &'static str,
    },
}

/// Where each field stands in the file, from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// By the places of [`FIELDS`].
    pub places: [Option<usize>; FIELDS.len()],
    /// Headers that go nowhere.
    pub ignored: Vec<String>,
}

impl Columns {
    /// Maps the headers; `map` are pairs of column and field that win over names.
    pub fn of(headers: &[String], map: &[(String, String)]) -> Result<Columns, ColumnsError> {
        if headers.iter().all(|header| header.trim().is_empty()) {
            return Err(ColumnsError::Empty);
        }
        let all = || list(headers.iter().map(String::as_str));
        let mut places = [None; FIELDS.len()];
        for (column, field) in map {
            let found = headers
                .iter()
                .position(|header| header == column)
                .or_else(|| headers.iter().position(|header| plain(header) == plain(column)));
            let place = found.ok_or_else(|| ColumnsError::UnknownColumn {
                column: column.clone(),
                headers: all(),
                meant: meant(did_you_mean(column, headers.iter().map(String::as_str))),
            })?;
            let known = FIELDS.iter().position(|known| *known == plain(field));
            let field = known.ok_or_else(|| ColumnsError::UnknownField {
                field: field.clone(),
                fields: list(FIELDS.into_iter()),
                meant: meant(did_you_mean(&plain(field), FIELDS)),
            })?;
            if places[field].is_some() || places.contains(&Some(place)) {
                return Err(ColumnsError::Twice(FIELDS[field]));
            }
            places[field] = Some(place);
        }
        // Exact names first: a column `at` must not lose to a `date` before it.
        for by_synonym in [false, true] {
            for (place, header) in headers.iter().enumerate() {
                let name = plain(header);
                let field = if by_synonym {
                    SYNONYMS.iter().find(|(_, words)| words.contains(&name.as_str())).map(|(field, _)| *field)
                } else {
                    FIELDS.iter().position(|field| *field == name)
                };
                if let Some(field) = field.filter(|field| places[*field].is_none() && !places.contains(&Some(place))) {
                    places[field] = Some(place);
                }
            }
        }
        let missing = |what, field| Err(ColumnsError::Missing { what, headers: all(), field });
        match () {
            () if places[ORDER_ID].is_none() => missing("the orders' numbers", "order_id"),
            () if places[EMAIL].is_none() && places[EXTERNAL_ID].is_none() => missing("whose orders they are", "email"),
            () if places[AT].is_none() => missing("when they were placed", "at"),
            () if places[AMOUNT].is_none() && (places[UNIT_PRICE].is_none() || places[QUANTITY].is_none()) => {
                missing("what was paid (or `unit_price` and `quantity`)", "amount")
            }
            () => {
                let unused = |place: &usize| !places.contains(&Some(*place));
                let ignored =
                    (0..headers.len()).filter(unused).map(|place| headers[place].clone()).filter(|header| !header.trim().is_empty());
                Ok(Columns { places, ignored: ignored.collect() })
            }
        }
    }
}

fn meant(word: Option<&str>) -> String {
    word.map_or_else(String::new, |word| format!(" (did you mean `{word}`?)"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn of(headers: &[&str], map: &[(&str, &str)]) -> Result<Columns, ColumnsError> {
        let headers: Vec<String> = headers.iter().map(|header| (*header).to_owned()).collect();
        let map: Vec<(String, String)> = map.iter().map(|(column, field)| ((*column).to_owned(), (*field).to_owned())).collect();
        Columns::of(&headers, &map)
    }

    #[test]
    fn headers_map_by_name_by_other_names_and_as_told() {
        let columns = of(&["Date", "Order Number", "E-Mail", "AT", "Sum", "Shoe"], &[("Sum", "amount")]).unwrap();
        assert_eq!(
            (columns.places[ORDER_ID], columns.places[EMAIL], columns.places[AT], columns.places[AMOUNT]),
            (Some(1), Some(2), Some(3), Some(4))
        );
        assert_eq!(columns.ignored, ["Date", "Shoe"]);
    }

    #[test]
    fn what_does_not_fit_says_what_to_do() {
        let said = |headers: &[&str], map: &[(&str, &str)]| of(headers, map).unwrap_err().to_string();
        let enough = ["order_id", "email", "at", "amount"];
        assert!(said(&enough, &[("Sum", "amount")]).starts_with("the file has no column `Sum`"));
        assert!(said(&enough, &[("amount", "amuont")]).contains("did you mean `amount`?"));
        assert_eq!(
            said(&enough, &[("at", "amount"), ("amount", "amount")]),
            "the field `amount` is mapped from two columns: keep one of the two"
        );
        assert!(said(&["order_id", "at", "amount"], &[]).contains("`--map \"COLUMN=email\"`"));
        assert!(said(&["order_id", "email", "at", "quantity"], &[]).contains("unit_price"));
        assert_eq!(said(&[""], &[]), "the file is empty: its first line must name the columns");
    }
}
