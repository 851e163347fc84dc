//! `optin form list|show`

use serde_json::json;

use super::Context;
use super::out::{Failure, Outcome, table};
use crate::config::Form;
use crate::config::diagnostics::did_you_mean;
use crate::instance::Instance;
use crate::web::snippet;

/// Forms by which people subscribe.
#[derive(Debug, clap::Args)]
pub struct FormCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// All forms with their addresses.
    #[command(after_help = "Forms are the tables of `forms.toml`.\n\nExample:\n  optin form list")]
    List,
    /// Print a form as HTML for a site of your own.
    #[command(after_help = "Put the HTML into any page. Add the page's site to `sites` of the form in `forms.toml`; a form\n\
        that comes from elsewhere asks its visitor to press the button again on our page. Print it anew\n\
        when you change the form's wording: what people see is what is recorded.\n\n\
        Examples:\n  optin form show tea\n  optin form show tea --lang zh-Hant > subscribe.html")]
    Show {
        /// The form's name in `forms.toml`.
        form: String,
        /// The language it speaks, such as `zh-Hant`.
        #[arg(long, value_name = "TAG")]
        lang: Option<String>,
    },
}

impl FormCommand {
    pub(super) async fn run(self, context: &Context) -> Outcome {
        let instance = context.instance().await?;
        match self.action {
            Action::List => list(context, &instance),
            Action::Show { form, lang } => show(context, &instance, &form, lang.as_deref()),
        }
    }
}

fn address(instance: &Instance, form: &Form) -> String {
    format!("{}/subscribe/{}", instance.config.site.url.value, form.name)
}

fn topics(form: &Form) -> Vec<&str> {
    form.topics.iter().map(|topic| topic.value.as_str()).collect()
}

fn list(context: &Context, instance: &Instance) -> Outcome {
    let forms = &instance.config.forms;
    if context.out.json {
        let documents: Vec<_> = forms
            .values()
            .map(|form| {
                let fields: Vec<&str> = form.fields.iter().map(|field| field.value.as_str()).collect();
                json!({ "form": form.name, "url": address(instance, form), "topics": topics(form), "fields": fields, "sites": form.sites })
            })
            .collect();
        return context.out.document(&json!({ "forms": documents }));
    }
    if forms.is_empty() {
        context.out.say("There is no form yet: declare one in `forms.toml`, `[tea]` with `topics = [\"..\"]`.");
        return Ok(());
    }
    let rows = forms.values().map(|form| vec![form.name.clone(), topics(form).join(", "), address(instance, form)]).collect();
    context.out.data(table(&["form", "topics", "address"], rows));
    Ok(())
}

fn show(context: &Context, instance: &Instance, name: &str, lang: Option<&str>) -> Outcome {
    let forms = &instance.config.forms;
    let Some(form) = forms.get(name) else {
        let hint = match did_you_mean(name, forms.keys().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "`optin form list` shows the forms of `forms.toml`".to_owned(),
        };
        return Err(Failure::Failed(anyhow::anyhow!("there is no form `{name}`\nhint: {hint}")));
    };
    let lang = match lang {
        None => instance.languages.english(),
        Some(tag) => instance.languages.find(tag).ok_or_else(|| {
            let known: Vec<&str> = instance.languages.all().map(|lang| lang.tag()).collect();
            Failure::Failed(anyhow::anyhow!("no form speaks `{tag}`\nhint: languages are {}", known.join(", ")))
        })?,
    };
    let html = snippet(instance, form, lang).map_err(anyhow::Error::from)?;
    if context.out.json {
        return context.out.document(&json!({ "form": form.name, "url": address(instance, form), "language": lang.tag(), "html": html }));
    }
    context.out.data(html.trim_end());
    if form.sites.is_empty() {
        context.out.say(format!("Add your site to `sites` of `[{name}]` in `forms.toml`, so that one press is enough."));
    }
    Ok(())
}
