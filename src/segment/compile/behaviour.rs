//! Events and orders.

use super::history::Past;
use super::{Compiler, ago};
use crate::behaviour::EventSchema;
use crate::db::Dialect;
use crate::segment::ast::{Op, Period};
use crate::segment::rule::{Node, Together};

impl Compiler<'_> {
    pub(super) fn did(&mut self, event: &EventSchema, filter: Option<&Node>, within: Option<Period>, at_least: u32) -> Past {
        let mut past = Past::new(format!("{} e", event.table()), "e");
        if let Some(within) = within {
            let since = self.bind(ago(self.now, within));
            past.by(format!("e.at >= {since}"));
        }
        if let Some(filter) = filter {
            let condition = self.node(filter, false);
            past.and(condition);
        }
        if at_least > 1 {
            past.together(format!("COUNT(*) >= {at_least}"));
        }
        past
    }

    /// All orders ever are added up in `order_total`; those of some time are rows of `orders`, those of some goods
    /// of `order_line`, where lines that were given back are left out (of a void order: all).
    pub(super) fn ordered(
        &mut self,
        within: Option<Period>,
        product: Option<&str>,
        category: Option<&str>,
        at_least: u32,
        together: &[Together],
        as_set: bool,
    ) -> Past {
        // Step by step the way in is the contact; SQLite might take all lines of a product for each of them.
        let plus = if self.dialect == Dialect::Sqlite && !as_set { "+" } else { "" };
        let since = within.map(|within| ago(self.now, within));
        let (mut past, columns) = match (since, product, category) {
            (None, None, None) => {
                let mut past = Past::new("order_total o", "o");
                past.by(format!("o.orders >= {at_least}"));
                for condition in together {
                    let condition = self.all_together(condition, &Columns::TOTAL);
                    past.and(condition);
                }
                return past;
            }
            (_, None, None) => {
                let mut past = Past::new("orders o", "o");
                past.by("o.void = FALSE");
                (past, Columns::ORDERS)
            }
            _ => {
                let mut past = Past::new("order_line o", "o");
                past.by("o.refunded = FALSE");
                (past, Columns::LINES)
            }
        };
        if let Some(product) = product {
            let product = self.bind(product);
            past.by(format!("{plus}COALESCE(o.product_id, o.product) = {product}"));
        }
        if let Some(category) = category {
            let category = self.bind(category);
            past.by(format!("{plus}o.category = {category}"));
        }
        if let Some(since) = since {
            let since = self.bind(since);
            past.by(format!("o.at >= {since}"));
        }
        if at_least > 1 {
            past.together(format!("{} >= {at_least}", columns.count));
        }
        for condition in together {
            let condition = self.all_together(condition, &columns);
            past.together(condition);
        }
        past
    }

    fn all_together(&mut self, condition: &Together, columns: &Columns) -> String {
        match condition {
            Together::Count(op, value) => format!("{} {} {}", columns.count, symbol(*op), self.bind(*value)),
            Together::Sum(op, value) => format!("{} {} {}", columns.sum, symbol(*op), self.bind(*value)),
            // Numeric: a product of two large numbers is larger than PostgreSQL's BIGINT.
            Together::Average(op, value) => {
                format!("{} {} CAST({} AS NUMERIC) * {}", columns.sum, symbol(*op), self.bind(*value), columns.count)
            }
            Together::First(op, moment) => self.on_day(columns.first, *op, *moment),
            Together::Last(op, moment) => self.on_day(columns.last, *op, *moment),
        }
    }
}

/// What is counted and added up where.
struct Columns {
    count: &'static str,
    sum: &'static str,
    first: &'static str,
    last: &'static str,
}

impl Columns {
    const TOTAL: Columns = Columns { count: "o.orders", sum: "o.amount", first: "o.first_at", last: "o.last_at" };
    const ORDERS: Columns = Columns { count: "COUNT(*)", sum: "SUM(o.amount)", first: "MIN(o.at)", last: "MAX(o.at)" };
    const LINES: Columns = Columns { count: "COUNT(DISTINCT o.order_id)", sum: "SUM(o.amount)", first: "MIN(o.at)", last: "MAX(o.at)" };
}

fn symbol(op: Op) -> &'static str {
    if op == Op::NotEqual { "<>" } else { op.symbol() }
}
