//! The value of one field as somebody gave it: typed into a form, or sent by a program.

use serde_json::Value;

use super::import::Kind;
use super::import::cells::{Cell, Cells};
use super::import::mapping::FIELD_CHARACTERS;
use super::{AttributeValue, BUILT_IN_FIELDS, Contact, Date, Schema, sql};
use crate::config::AttributeType;

/// Most characters of a declared text, and of all values of a list together.
pub const TEXT_CHARACTERS: usize = 2_000;
/// Most values of a list.
pub const LIST_VALUES: usize = 100;

/// What a field that people may fill in must hold; nothing for `email` and for what is not declared.
fn kind(schema: &Schema, name: &str) -> Option<Kind> {
    match name {
        "email" => None,
        "locale" => Some(Kind::Locale),
        "timezone" => Some(Kind::Timezone),
        _ if BUILT_IN_FIELDS.contains(&name) => Some(Kind::Line(FIELD_CHARACTERS)),
        _ => schema.attribute(name).map(Kind::Attribute),
    }
}

/// Reads what somebody typed; nothing where they left it empty.
///
/// # Errors
/// What is wrong, as in `` `abc` is not a number such as `1234.5` ``.
pub fn from_text(schema: &Schema, name: &str, text: &str) -> Result<Option<AttributeValue>, String> {
    let Some(kind) = kind(schema, name) else { return Err(format!("there is no field `{name}`")) };
    if text.chars().count() > TEXT_CHARACTERS {
        return Err(format!("the text is longer than {TEXT_CHARACTERS} characters"));
    }
    let cell = Cells::default().parse(kind, text)?;
    Ok(cell.map(|cell| match cell {
        Cell::Number(number) => AttributeValue::Number(number),
        Cell::Boolean(flag) => AttributeValue::Boolean(flag),
        Cell::Date(date) => Date::from_number(date).map_or_else(|| AttributeValue::Text(text.to_owned()), AttributeValue::Date),
        Cell::Text(text) if kind == Kind::Attribute(AttributeType::List) => AttributeValue::List(sql::split_list(&text)),
        Cell::Text(text) => AttributeValue::Text(text.to_string()),
    }))
}

/// The values of a list, each as given; nothing where none is left.
///
/// # Errors
/// When it is too long.
pub fn from_list(values: impl IntoIterator<Item = String>) -> Result<Option<AttributeValue>, String> {
    let mut out: Vec<String> = Vec::new();
    for value in values {
        let value = value.trim().replace(super::LIST_MARK, "");
        if !value.is_empty() && !out.contains(&value) {
            out.push(value);
        }
    }
    if out.len() > LIST_VALUES || out.iter().map(|value| value.chars().count()).sum::<usize>() > TEXT_CHARACTERS {
        return Err(format!("at most {LIST_VALUES} values and {TEXT_CHARACTERS} characters fit into a list"));
    }
    Ok((!out.is_empty()).then_some(AttributeValue::List(out)))
}

/// Reads a JSON value of the field's own type; `null` and empty values are nothing.
///
/// # Errors
/// What is wrong.
pub fn from_json(schema: &Schema, name: &str, value: &Value) -> Result<Option<AttributeValue>, String> {
    let Some(kind) = kind(schema, name) else { return Err(format!("there is no field `{name}`")) };
    let expected = match kind {
        Kind::Attribute(AttributeType::Number) => "a number",
        Kind::Attribute(AttributeType::Boolean) => "true or false",
        Kind::Attribute(AttributeType::Date) => "a date as text, such as \"2026-12-01\"",
        Kind::Attribute(AttributeType::List) => "a list of texts",
        _ => "text",
    };
    match (kind, value) {
        (_, Value::Null) => Ok(None),
        (Kind::Attribute(AttributeType::Number), Value::Number(number)) => Ok(number.as_f64().map(AttributeValue::Number)),
        (Kind::Attribute(AttributeType::Boolean), Value::Bool(flag)) => Ok(Some(AttributeValue::Boolean(*flag))),
        (Kind::Attribute(AttributeType::List), Value::Array(values)) => {
            let texts: Option<Vec<String>> = values.iter().map(|value| value.as_str().map(str::to_owned)).collect();
            from_list(texts.ok_or_else(|| format!("`{name}` has to be {expected}"))?)
        }
        (Kind::Attribute(AttributeType::Number | AttributeType::Boolean | AttributeType::List), _) => {
            Err(format!("`{name}` has to be {expected}"))
        }
        (_, Value::String(text)) => from_text(schema, name, text),
        _ => Err(format!("`{name}` has to be {expected}")),
    }
}

/// A value as JSON: a whole number without a point, a date as text.
pub fn to_json(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::Text(text) => Value::from(text.as_str()),
        AttributeValue::Number(number) if number.fract() == 0.0 && number.abs() < 1e15 => Value::from(*number as i64),
        AttributeValue::Number(number) => Value::from(*number),
        AttributeValue::Boolean(flag) => Value::from(*flag),
        AttributeValue::Date(date) => Value::from(date.to_string()),
        AttributeValue::List(values) => Value::from(values.clone()),
    }
}

/// What a contact's field holds.
pub fn of_contact(contact: &Contact, name: &str) -> Option<AttributeValue> {
    let built_in = match name {
        "first_name" => &contact.first_name,
        "last_name" => &contact.last_name,
        "locale" => &contact.locale,
        "timezone" => &contact.timezone,
        "phone" => &contact.phone,
        "external_id" => &contact.external_id,
        _ => return contact.attributes.get(name).cloned(),
    };
    built_in.clone().map(AttributeValue::Text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Schema {
        let kinds = [
            ("age", AttributeType::Number),
            ("vip", AttributeType::Boolean),
            ("born", AttributeType::Date),
            ("likes", AttributeType::List),
        ];
        Schema::new(&kinds.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect())
    }

    #[test]
    fn values_are_read_as_their_type_and_written_back() {
        for (name, value) in [
            ("age", json!(41)),
            ("vip", json!(false)),
            ("born", json!("1990-02-28")),
            ("likes", json!(["oolong", "green"])),
            ("first_name", json!("Mei")),
        ] {
            let read = from_json(&schema(), name, &value).expect("fits").expect("there");
            assert_eq!(to_json(&read), value, "{name}");
        }
        assert_eq!(from_text(&schema(), "likes", "a; b").expect("fits"), from_list(["a".to_owned(), "b".to_owned()]).expect("fits"));
        assert_eq!(from_text(&schema(), "age", "  "), Ok(None));
    }

    #[test]
    fn what_does_not_fit_says_so() {
        for (name, value) in [
            ("age", json!("x")),
            ("vip", json!(1)),
            ("born", json!("2026-02-30")),
            ("likes", json!([1])),
            ("first_name", json!({})),
            ("no", json!("x")),
            ("email", json!("a@b.example")),
        ] {
            assert!(from_json(&schema(), name, &value).is_err(), "{name}");
        }
        assert!(from_text(&schema(), "first_name", &"x".repeat(501)).is_err());
        assert!(from_list((0..101).map(|n| n.to_string())).is_err());
    }
}
