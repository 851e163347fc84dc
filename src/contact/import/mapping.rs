//! Which column of a file goes into which field of a contact.

use crate::config::AttributeType;
use crate::config::diagnostics::did_you_mean;
use crate::contact::{BUILT_IN_FIELDS, Schema};

/// Other names of fields that files from shops, spreadsheets and mail tools use, beside the field's
/// own name and the declared attributes. Compared as [`plain`] writes them. Small on purpose: a
/// wrong guess is worse than a column reported as ignored.
const SYNONYMS: &[(&str, &[&str])] = &[
    (
        "email",
        &[
            "e_mail",
            "email_address",
            "e_mail_address",
            "mail",
            "邮箱",
            "电子邮件",
            "电子邮箱",
            "邮箱地址",
            "郵箱",
            "電子郵件",
            "電郵",
            "電子信箱",
            "信箱",
        ],
    ),
    ("first_name", &["firstname", "given_name", "name", "full_name", "vorname", "姓名", "名字", "名"]),
    ("last_name", &["lastname", "surname", "family_name", "nachname", "姓", "姓氏"]),
    ("locale", &["language", "lang", "语言", "語言"]),
    ("timezone", &["time_zone", "tz", "时区", "時區"]),
    ("phone", &["phone_number", "telephone", "mobile", "手机", "手机号", "电话", "手機", "電話"]),
    ("external_id", &["customer_id", "customer_number", "客户编号", "客戶編號"]),
];

/// What a cell becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One line of text, so many characters at most.
    Line(usize),
    /// A language tag.
    Locale,
    /// An IANA zone.
    Timezone,
    /// A declared attribute.
    Attribute(AttributeType),
}

/// A column of the file that goes into a contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Where it stands in the file, from 0.
    pub position: usize,
    /// Its header.
    pub header: String,
    /// The column of the table `contact`.
    pub target: String,
    /// What its cells must be.
    pub kind: Kind,
}

/// The columns of a file and where they go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Where the addresses stand, from 0.
    pub email: usize,
    /// The header of that column.
    pub email_header: String,
    /// All other columns that are taken.
    pub columns: Vec<Column>,
    /// Headers that go nowhere, each with the reason.
    pub ignored: Vec<(String, String)>,
    /// Number of columns in the file.
    pub width: usize,
}

/// Why a file's columns cannot be mapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// `--map` names a column that is not there.
    #[error("the file has no column `{column}`; its columns are {headers}{}", meant(.suggestion))]
    UnknownColumn {
        /// As given.
        column: String,
        /// What is there.
        headers: String,
        /// The nearest one.
        suggestion: Option<String>,
    },
    /// `--map` names a field that is not there.
    #[error("there is no field `{field}`{}; declare it under `[attributes]` in `optin.toml`, or use one of {fields}", meant(.suggestion))]
    UnknownField {
        /// As given.
        field: String,
        /// What is there.
        fields: String,
        /// The nearest one.
        suggestion: Option<String>,
    },
    /// Two columns are mapped to one field.
    #[error("the field `{0}` is mapped from two columns: keep one of the two")]
    Twice(String),
    /// No column holds addresses.
    #[error("no column holds email addresses; the columns are {headers}: name one with `--map \"COLUMN=email\"`")]
    NoEmail {
        /// What is there.
        headers: String,
    },
    /// The file has no header line.
    #[error("the file is empty: its first line must name the columns")]
    Empty,
}

fn meant(word: &Option<String>) -> String {
    word.as_ref().map_or_else(String::new, |word| format!(" (did you mean `{word}`?)"))
}

/// Maps the headers of a file. `map` are pairs of column and field that the user gave; they win over
/// names. Of two columns for one field the first counts.
pub fn map_columns(headers: &[String], map: &[(String, String)], schema: &Schema) -> Result<Mapping, MappingError> {
    if headers.iter().all(|header| header.trim().is_empty()) {
        return Err(MappingError::Empty);
    }
    let mut fields: Vec<Option<String>> = vec![None; headers.len()];
    let mut taken: Vec<String> = Vec::new();
    for (column, field) in map {
        let position = find_column(headers, column)?;
        let field = find_field(field, schema)?;
        if taken.contains(&field) || fields[position].is_some() {
            return Err(MappingError::Twice(field));
        }
        taken.push(field.clone());
        fields[position] = Some(field);
    }
    // Exact names go first: a column `city` must not lose to a synonym that stands before it.
    for by_synonym in [false, true] {
        for (position, header) in headers.iter().enumerate() {
            if fields[position].is_none()
                && let Some(field) = field_of_header(header, schema, by_synonym)
                && !taken.contains(&field)
            {
                taken.push(field.clone());
                fields[position] = Some(field);
            }
        }
    }
    collect(headers, fields, schema)
}

fn collect(headers: &[String], fields: Vec<Option<String>>, schema: &Schema) -> Result<Mapping, MappingError> {
    let mut mapping =
        Mapping { email: usize::MAX, email_header: String::new(), columns: Vec::new(), ignored: Vec::new(), width: headers.len() };
    for (position, (header, field)) in headers.iter().zip(fields).enumerate() {
        match field {
            Some(field) if field == "email" => (mapping.email, mapping.email_header) = (position, header.clone()),
            Some(field) => {
                let (target, kind) = target(&field, schema);
                mapping.columns.push(Column { position, header: header.clone(), target, kind });
            }
            None if header.trim().is_empty() => {}
            None => {
                let known = [false, true].into_iter().find_map(|by_synonym| field_of_header(header, schema, by_synonym));
                let reason = match known {
                    Some(field) => format!("another column already fills `{field}`"),
                    None => "no field or attribute has this name".to_owned(),
                };
                mapping.ignored.push((header.clone(), reason));
            }
        }
    }
    if mapping.email == usize::MAX { Err(MappingError::NoEmail { headers: list(headers.iter().map(String::as_str)) }) } else { Ok(mapping) }
}

/// Longest value of a built-in text field, in characters. PostgreSQL cannot index texts beyond some
/// 2,700 bytes (`external_id` is indexed), and nobody's name is longer.
pub(in crate::contact) const FIELD_CHARACTERS: usize = 500;

fn target(field: &str, schema: &Schema) -> (String, Kind) {
    match (field, schema.attribute(field)) {
        ("locale", _) => (field.to_owned(), Kind::Locale),
        ("timezone", _) => (field.to_owned(), Kind::Timezone),
        (_, Some(kind)) if !BUILT_IN_FIELDS.contains(&field) => (Schema::column(field, kind), Kind::Attribute(kind)),
        _ => (field.to_owned(), Kind::Line(FIELD_CHARACTERS)),
    }
}

fn find_column(headers: &[String], column: &str) -> Result<usize, MappingError> {
    let exact = headers.iter().position(|header| header == column);
    let alike = || headers.iter().position(|header| plain(header) == plain(column));
    exact.or_else(alike).ok_or_else(|| MappingError::UnknownColumn {
        column: column.to_owned(),
        headers: list(headers.iter().map(String::as_str)),
        suggestion: did_you_mean(column, headers.iter().map(String::as_str)).map(str::to_owned),
    })
}

fn find_field(field: &str, schema: &Schema) -> Result<String, MappingError> {
    let name = plain(field);
    let all = || BUILT_IN_FIELDS.iter().copied().chain(schema.attributes().map(|(name, _)| name));
    if all().any(|known| known == name) {
        return Ok(name);
    }
    Err(MappingError::UnknownField {
        field: field.to_owned(),
        fields: list(all()),
        suggestion: did_you_mean(&name, all()).map(str::to_owned),
    })
}

fn field_of_header(header: &str, schema: &Schema, by_synonym: bool) -> Option<String> {
    let name = plain(header);
    if by_synonym {
        return SYNONYMS.iter().find(|(_, words)| words.contains(&name.as_str())).map(|(field, _)| (*field).to_owned());
    }
    (BUILT_IN_FIELDS.contains(&name.as_str()) || schema.attribute(&name).is_some()).then_some(name)
}

/// Lower case, without invisible marks, with `_` for blanks and dashes.
pub(crate) fn plain(name: &str) -> String {
    name.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\u{feff}' | '\u{200b}'))
        .chars()
        .flat_map(char::to_lowercase)
        .map(|c| if c.is_whitespace() || matches!(c, '-' | '‐' | '‑') { '_' } else { c })
        .collect()
}

pub(crate) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::collections::BTreeMap;

    use super::*;

    fn schema() -> Schema {
        Schema::new(&BTreeMap::from([("city".to_owned(), AttributeType::Text), ("age".to_owned(), AttributeType::Number)]))
    }

    fn map(headers: &[&str], pairs: &[(&str, &str)]) -> Result<Mapping, MappingError> {
        let headers: Vec<String> = headers.iter().map(|header| (*header).to_owned()).collect();
        let pairs: Vec<(String, String)> = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        map_columns(&headers, &pairs, &schema())
    }

    fn targets(mapping: &Mapping) -> Vec<(usize, &str)> {
        mapping.columns.iter().map(|column| (column.position, column.target.as_str())).collect()
    }

    #[test]
    fn headers_map_by_name_and_by_their_usual_other_names() {
        let mapping = map(&["E-Mail Address", "First Name", "CITY", "Age", "手机", "Shoe size"], &[]).unwrap();
        assert_eq!(mapping.email, 0);
        assert_eq!(targets(&mapping), [(1, "first_name"), (2, "t_city"), (3, "n_age"), (4, "phone")]);
        assert_eq!(mapping.ignored, [("Shoe size".to_owned(), "no field or attribute has this name".to_owned())]);
        assert_eq!(map(&["姓名", "電子郵件"], &[]).unwrap().email, 1);
    }

    #[test]
    fn what_the_user_maps_wins_and_the_other_column_is_reported() {
        let mapping = map(&["mail", "email", "Town", "city"], &[("Town", "city"), ("MAIL", "email")]).unwrap();
        assert_eq!(mapping.email, 0);
        assert_eq!(targets(&mapping), [(2, "t_city")]);
        assert_eq!(mapping.ignored[0], ("email".to_owned(), "another column already fills `email`".to_owned()));
        assert_eq!(mapping.ignored[1].0, "city");
    }

    #[test]
    fn an_exact_name_wins_over_a_synonym_before_it() {
        assert_eq!(map(&["mail", "name", "first_name", "email"], &[]).unwrap().email, 3);
    }

    #[test]
    fn mistakes_say_what_is_there() {
        let message = |headers: &[&str], pairs: &[(&str, &str)]| map(headers, pairs).unwrap_err().to_string();
        assert_eq!(
            message(&["Twon", "email"], &[("Town", "city")]),
            "the file has no column `Town`; its columns are `Twon`, `email` (did you mean `Twon`?)"
        );
        assert!(message(&["Town", "email"], &[("Town", "citty")]).starts_with("there is no field `citty` (did you mean `city`?)"));
        assert_eq!(
            message(&["a", "b", "email"], &[("a", "city"), ("b", "city")]),
            "the field `city` is mapped from two columns: keep one of the two"
        );
        assert_eq!(
            message(&["a", "b"], &[]),
            "no column holds email addresses; the columns are `a`, `b`: name one with `--map \"COLUMN=email\"`"
        );
        assert_eq!(map(&[""], &[]), Err(MappingError::Empty));
    }
}
