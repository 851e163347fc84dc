//! Values that travel to and from either database: one small set of types that both store alike.

use std::borrow::Cow;
use std::sync::Arc;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments, Column, Row as _};

use super::DbError;

/// One bound argument. NULLs keep their type because PostgreSQL wants to know it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `BIGINT`: ids, counts, and times in milliseconds since 1970 UTC.
    I64(Option<i64>),
    /// `DOUBLE PRECISION`.
    F64(Option<f64>),
    /// `BOOLEAN`.
    Bool(Option<bool>),
    /// `TEXT`, UTF-8, without NUL (PostgreSQL cannot store it).
    Text(Option<String>),
    /// `BYTEA` / `BLOB`.
    Bytes(Option<Vec<u8>>),
}

macro_rules! into_value {
    ($($from:ty => $variant:ident),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self { Value::$variant(Some(value.into())) }
        }
        impl From<Option<$from>> for Value {
            fn from(value: Option<$from>) -> Self { Value::$variant(value.map(Into::into)) }
        }
    )*};
}
into_value!(i64 => I64, i32 => I64, u32 => I64, u16 => I64, f64 => F64, bool => Bool, String => Text, &str => Text, &String => Text, Vec<u8> => Bytes, &[u8] => Bytes);

impl From<crate::clock::Time> for Value {
    fn from(value: crate::clock::Time) -> Self {
        Value::I64(Some(value.millis()))
    }
}

impl From<Option<crate::clock::Time>> for Value {
    fn from(value: Option<crate::clock::Time>) -> Self {
        Value::I64(value.map(|time| time.millis()))
    }
}

/// The arguments of one statement, in the order of `$1`, `$2`, ..
pub type Args = Vec<Value>;

/// Builds [`Args`] from anything that converts into a [`Value`].
#[macro_export]
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::db::Value::from($value)),*] };
}

pub(super) fn sqlite_arguments(args: Args) -> Result<SqliteArguments, DbError> {
    let mut out = SqliteArguments::default();
    sqlite_append(&mut out, args)?;
    Ok(out)
}

pub(super) fn sqlite_append(out: &mut SqliteArguments, args: Args) -> Result<(), DbError> {
    out.reserve(args.len(), 0);
    for value in args {
        match value {
            Value::I64(v) => out.add(v),
            Value::F64(v) => out.add(v),
            Value::Bool(v) => out.add(v),
            Value::Text(v) => out.add(v),
            Value::Bytes(v) => out.add(v),
        }
        .map_err(|error| DbError::Statement(sqlx::Error::Encode(error)))?;
    }
    Ok(())
}

pub(super) fn postgres_arguments(args: Args) -> Result<PgArguments, DbError> {
    let mut out = PgArguments::default();
    out.reserve(args.len(), 0);
    for value in args {
        match value {
            Value::I64(v) => out.add(v),
            Value::F64(v) => out.add(v),
            Value::Bool(v) => out.add(v),
            Value::Text(v) => out.add(v),
            Value::Bytes(v) => out.add(v),
        }
        .map_err(|error| DbError::Statement(sqlx::Error::Encode(error)))?;
    }
    Ok(out)
}

/// One row of a result. Columns are read by position.
#[derive(Debug)]
pub enum Row {
    /// From SQLite.
    Sqlite(SqliteRow),
    /// From PostgreSQL.
    Postgres(PgRow),
}

/// A type that can be read from a column of either database.
pub trait FromColumn: Sized {
    /// Reads column `index`. Errors when the type does not fit.
    fn from_column(row: &Row, index: usize) -> Result<Self, DbError>;
}

macro_rules! from_column {
    ($($to:ty),* $(,)?) => {$(
        impl FromColumn for $to {
            fn from_column(row: &Row, index: usize) -> Result<Self, DbError> {
                match row {
                    Row::Sqlite(row) => row.try_get(index),
                    Row::Postgres(row) => row.try_get(index),
                }.map_err(DbError::Statement)
            }
        }
    )*};
}
from_column!(i64, f64, bool, String, Vec<u8>, Option<i64>, Option<f64>, Option<bool>, Option<String>, Option<Vec<u8>>);

impl FromColumn for crate::clock::Time {
    fn from_column(row: &Row, index: usize) -> Result<Self, DbError> {
        i64::from_column(row, index).map(crate::clock::Time::from_millis)
    }
}

impl FromColumn for Option<crate::clock::Time> {
    fn from_column(row: &Row, index: usize) -> Result<Self, DbError> {
        Option::<i64>::from_column(row, index).map(|v| v.map(crate::clock::Time::from_millis))
    }
}

impl Row {
    /// Reads column `index` (from 0). Errors when the type does not fit the column.
    pub fn get<T: FromColumn>(&self, index: usize) -> Result<T, DbError> {
        T::from_column(self, index)
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        match self {
            Row::Sqlite(row) => row.len(),
            Row::Postgres(row) => row.len(),
        }
    }

    /// True for a row without columns.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of column `index`.
    pub fn column_name(&self, index: usize) -> &str {
        match self {
            Row::Sqlite(row) => row.columns()[index].name(),
            Row::Postgres(row) => row.columns()[index].name(),
        }
    }
}

/// A column of a [`Rows`] block.
#[derive(Debug, Clone)]
pub enum ColumnData {
    /// `BIGINT`
    I64(Vec<Option<i64>>),
    /// `DOUBLE PRECISION`
    F64(Vec<Option<f64>>),
    /// `BOOLEAN`
    Bool(Vec<Option<bool>>),
    /// `TEXT`
    Text(Vec<Option<String>>),
    /// `TEXT` that others hold too: binding it copies nothing, and SQLite's thread frees nothing.
    Shared(Vec<Option<Arc<str>>>),
    /// `BYTEA`
    Bytes(Vec<Option<Vec<u8>>>),
}

impl ColumnData {
    fn len(&self) -> usize {
        match self {
            ColumnData::I64(v) => v.len(),
            ColumnData::F64(v) => v.len(),
            ColumnData::Bool(v) => v.len(),
            ColumnData::Text(v) => v.len(),
            ColumnData::Shared(v) => v.len(),
            ColumnData::Bytes(v) => v.len(),
        }
    }

    fn sql_type(&self) -> &'static str {
        match self {
            ColumnData::I64(_) => "BIGINT",
            ColumnData::F64(_) => "DOUBLE PRECISION",
            ColumnData::Bool(_) => "BOOLEAN",
            ColumnData::Text(_) | ColumnData::Shared(_) => "TEXT",
            ColumnData::Bytes(_) => "BYTEA",
        }
    }
}

/// Many rows as input of one statement, column by column. In the SQL they stand as `{rows}`, a
/// table called `v`: `INSERT INTO t (a, b) SELECT v.a, v.b FROM {rows} WHERE TRUE ON CONFLICT ..`
/// or `UPDATE t SET a = v.a FROM {rows} WHERE t.id = v.id`.
#[derive(Debug, Default, Clone)]
pub struct Rows {
    columns: Vec<(Cow<'static, str>, ColumnData)>,
}

impl Rows {
    /// No columns yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a column. All columns must have the same length.
    pub fn column(mut self, name: impl Into<Cow<'static, str>>, data: ColumnData) -> Self {
        let name = name.into();
        if let Some((first, column)) = self.columns.first() {
            assert_eq!(column.len(), data.len(), "columns `{first}` and `{name}` differ in length");
        }
        self.columns.push((name, data));
        self
    }

    /// Adds a `BIGINT` column.
    pub fn i64(self, name: &'static str, data: impl IntoIterator<Item = i64>) -> Self {
        self.column(name, ColumnData::I64(data.into_iter().map(Some).collect()))
    }

    /// Adds a nullable `BIGINT` column.
    pub fn opt_i64(self, name: &'static str, data: Vec<Option<i64>>) -> Self {
        self.column(name, ColumnData::I64(data))
    }

    /// Adds a `TEXT` column.
    pub fn text<S: Into<String>>(self, name: &'static str, data: impl IntoIterator<Item = S>) -> Self {
        self.column(name, ColumnData::Text(data.into_iter().map(|s| Some(s.into())).collect()))
    }

    /// Adds a `TEXT` column of shared texts.
    pub fn shared(self, name: &'static str, data: impl IntoIterator<Item = Arc<str>>) -> Self {
        self.column(name, ColumnData::Shared(data.into_iter().map(Some).collect()))
    }

    /// Adds a nullable `TEXT` column.
    pub fn opt_text(self, name: &'static str, data: Vec<Option<String>>) -> Self {
        self.column(name, ColumnData::Text(data))
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.columns.first().map_or(0, |(_, column)| column.len())
    }

    /// True when there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Moves `count` rows from `start` out into a block of their own.
    pub(super) fn take_slice(&mut self, start: usize, count: usize) -> Rows {
        fn part<T: Clone>(column: &mut [Option<T>], start: usize, count: usize) -> Vec<Option<T>> {
            column[start..start + count].iter_mut().map(Option::take).collect()
        }
        let columns = self
            .columns
            .iter_mut()
            .map(|(name, data)| {
                let data = match data {
                    ColumnData::I64(v) => ColumnData::I64(part(v, start, count)),
                    ColumnData::F64(v) => ColumnData::F64(part(v, start, count)),
                    ColumnData::Bool(v) => ColumnData::Bool(part(v, start, count)),
                    ColumnData::Text(v) => ColumnData::Text(part(v, start, count)),
                    ColumnData::Shared(v) => ColumnData::Shared(part(v, start, count)),
                    ColumnData::Bytes(v) => ColumnData::Bytes(part(v, start, count)),
                };
                (name.clone(), data)
            })
            .collect();
        Rows { columns }
    }

    pub(super) fn width(&self) -> usize {
        self.columns.len()
    }

    /// `UNNEST(..)` for PostgreSQL; parameters are numbered from `first`.
    pub(super) fn postgres_source(&self, first: usize) -> String {
        let params: Vec<String> =
            self.columns.iter().enumerate().map(|(i, (_, data))| format!("CAST(${} AS {}[])", first + i, data.sql_type())).collect();
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_ref()).collect();
        format!("UNNEST({}) AS v({})", params.join(", "), names.join(", "))
    }

    pub(super) fn postgres_bind(self, out: &mut PgArguments) -> Result<(), DbError> {
        for (_, data) in self.columns {
            match data {
                ColumnData::I64(v) => out.add(v),
                ColumnData::F64(v) => out.add(v),
                ColumnData::Bool(v) => out.add(v),
                ColumnData::Text(v) => out.add(v),
                ColumnData::Shared(v) => out.add(v.iter().map(Option::as_deref).collect::<Vec<Option<&str>>>()),
                ColumnData::Bytes(v) => out.add(v),
            }
            .map_err(|error| DbError::Statement(sqlx::Error::Encode(error)))?;
        }
        Ok(())
    }

    /// A `VALUES` list of `count` rows for SQLite. Its parameters have no numbers: SQLite (and sqlx, for
    /// each parameter it binds) finds a number by walking through all of them, which is quadratic.
    pub(super) fn sqlite_source(&self, count: usize) -> String {
        let width = self.width();
        let mut sql = String::with_capacity(count * (width * 2 + 3) + 200);
        sql.push_str("(SELECT ");
        for (i, (name, _)) in self.columns.iter().enumerate() {
            if i > 0 {
                sql.push_str(", ");
            }
            sql.push_str(&format!("column{} AS {name}", i + 1));
        }
        sql.push_str(" FROM (VALUES ");
        for row in 0..count {
            sql.push_str(if row == 0 { "(" } else { ",(" });
            for column in 0..width {
                sql.push_str(if column == 0 { "?" } else { ",?" });
            }
            sql.push(')');
        }
        sql.push_str(")) AS v");
        sql
    }

    pub(super) fn sqlite_bind(&mut self, start: usize, count: usize, out: &mut SqliteArguments) -> Result<(), DbError> {
        out.reserve(count * self.width(), 0);
        for row in start..start + count {
            for (_, data) in &mut self.columns {
                match data {
                    ColumnData::I64(v) => out.add(v[row]),
                    ColumnData::F64(v) => out.add(v[row]),
                    ColumnData::Bool(v) => out.add(v[row]),
                    ColumnData::Text(v) => out.add(v[row].take()),
                    ColumnData::Shared(v) => out.add(v[row].take()),
                    ColumnData::Bytes(v) => out.add(v[row].take()),
                }
                .map_err(|error| DbError::Statement(sqlx::Error::Encode(error)))?;
            }
        }
        Ok(())
    }
}
