//! `optin segment schema`

use super::super::Context;
use super::super::out::{Outcome, table};
use crate::segment::{self, Catalog};

pub(super) fn run(context: &Context) -> Outcome {
    let completion = segment::completion(&Catalog::new(&context.config()?));
    if context.out.json {
        return context.out.document(&completion);
    }
    let out = context.out;
    let fields = completion.fields.iter().map(|field| {
        let summary = field.summary.unwrap_or_default().to_owned();
        vec![field.name.clone(), field.kind.to_owned(), field.example.clone(), summary]
    });
    out.data(table(&["field", "type", "example", ""], fields.collect()));
    let functions = completion.functions.iter().flat_map(|function| {
        let head = vec![format!("{}(..)", function.name), String::new(), function.example.to_owned(), function.summary.to_owned()];
        let arguments = function.arguments.iter().map(|argument| {
            let name = match argument.form {
                "named" => format!("  {}:", argument.name),
                _ => format!("  {}", argument.name),
            };
            vec![name, argument.kind.to_owned(), argument.example.clone(), argument.summary.to_owned()]
        });
        std::iter::once(head).chain(arguments).collect::<Vec<_>>()
    });
    out.data(format!("\n{}", table(&["call", "type", "example", ""], functions.collect())));
    let words = completion.keywords.iter().chain(&completion.units);
    let words = words.map(|word| vec![word.text.to_owned(), word.example.to_owned(), word.summary.to_owned()]);
    out.data(format!("\n{}", table(&["word", "example", ""], words.collect())));
    let mut names = vec![
        vec!["topics".to_owned(), completion.topics.join(", ")],
        vec!["campaigns".to_owned(), completion.campaigns.join(", ")],
        vec!["segments".to_owned(), completion.segments.iter().map(|segment| segment.name.as_str()).collect::<Vec<_>>().join(", ")],
        vec!["stages".to_owned(), completion.stages.join(", ")],
        vec!["regions".to_owned(), completion.regions.iter().map(|region| region.name).collect::<Vec<_>>().join(", ")],
    ];
    for event in &completion.events {
        let properties = event.properties.iter().map(|property| format!("{} ({})", property.name, property.kind));
        names.push(vec![format!("event {}", event.name), properties.collect::<Vec<_>>().join(", ")]);
    }
    out.data(format!("\n{}", table(&["names", ""], names)));
    Ok(())
}
