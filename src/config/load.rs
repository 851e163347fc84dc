//! Reads the files of an instance.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::diagnostics::did_you_mean;
use super::env::{PREFIX, RESERVED};
use super::reader::{Document, Overrides, Report, Value};
use super::settings::{checked, required};
use super::{
    BUILT_IN_LANGUAGES, Config, Environment, Located, Problem, Problems, Segment, Sender, Site, SourceText, Topic, campaigns, check, forms,
    localised, messages, relays, settings,
};

/// A larger file is not written by a person: 1 MiB.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Topics, and segments: each is shown in lists and checked at start.
const MAX_ENTRIES: usize = 10_000;
/// The files that may lie beside `optin.toml`.
const FILES: &[&str] = &["optin.toml", "topics.toml", "segments.toml", "forms.toml", "profile.toml", "events.toml"];

/// An instance as far as it could be read, for the checks that need several rooms: a person who made
/// two mistakes in two files should see both.
#[derive(Debug)]
pub struct Draft {
    /// What could be read. Where something is wrong, it holds less than the files say, and stand-ins
    /// for what is missing.
    pub config: Config,
    /// Names of campaigns whose files are there, also those that could not be read.
    pub campaign_names: BTreeSet<String>,
    /// Names of topics that are declared, also with a mistake.
    pub topic_names: BTreeSet<String>,
    /// Attributes are complete: a name that is not among them is a mistake.
    pub attributes_whole: bool,
    /// Segments are complete.
    pub segments_whole: bool,
    /// What is wrong with keys and types.
    pub problems: Vec<Problem>,
}

/// Loads the instance in `dir` with the environment layered over it: defaults, then files, then
/// variables. Answers everything, or every problem of every file.
///
/// A relative path in `sqlite://path` is relative to the working directory, like everything a
/// person types.
pub fn load(dir: &Path, environment: &Environment) -> Result<Config, Problems> {
    let draft = draft(dir, environment)?;
    if draft.problems.is_empty() { Ok(draft.config) } else { Err(Problems::new(draft.problems, draft.config.sources)) }
}

/// Reads as much as there is. Fails only where there is no instance at all.
pub fn draft(dir: &Path, environment: &Environment) -> Result<Draft, Problems> {
    let dir = shown(dir);
    let mut report = Report::default();
    let file = dir.join("optin.toml");
    if !file.is_file() {
        let hint = format!("create one with `optin init {}`, or name its folder with `--config DIR`", dir.display());
        report.file(&file, "there is no such file", hint);
        return Err(Problems::new(report.list, report.sources));
    }
    let mut overrides = Overrides { environment, known: BTreeSet::new() };
    let text = read_text(&file, &mut report);
    let document = Document::parse(&file, text.as_deref().unwrap_or(""), &mut report);
    let settings = text.as_ref().map(|_| settings::read(&document, &mut overrides, &mut report));
    let languages = read_languages(&dir, &mut report);
    let tags: BTreeSet<String> = BUILT_IN_LANGUAGES.iter().map(|tag| (*tag).to_owned()).chain(languages.keys().cloned()).collect();
    let topics = read_topics(&dir, &tags, &mut report);
    let before = report.list.len();
    let segments = read_segments(&dir, &mut report);
    let segments_whole = report.list.len() == before;
    let layouts = read_layouts(&dir, &mut report);
    let campaigns = campaigns::read(&dir, &topics, &layouts, &mut report);
    let messages = messages::read(&dir, &topics, &layouts, &mut report);
    let campaign_names = campaigns::names(&dir, &mut Report::default());
    unknown_files(&dir, &mut report);
    if settings.is_some() {
        unknown_variables(&overrides, &mut report);
    }
    let declared = settings.as_ref().map(|settings| settings.attributes.clone()).unwrap_or_default();
    let profile = forms::profile(&dir, &declared, &tags, &mut report);
    let forms = forms::forms(&dir, &topics, &profile, &tags, &mut report);
    check_welcomes(&topics, &messages, &mut report);
    let Some(settings) = settings else { return Err(Problems::new(report.list, report.sources)) };
    let events = super::response::events(&dir, &settings.response.behaviour, &mut report);
    relays::check_routes(&settings.relays, settings.sender.as_ref(), &campaigns, &mut report);
    let config = Config {
        dir,
        site: settings.site.unwrap_or_else(|| Site {
            url: Located::default_value(String::new()),
            listen: ([127, 0, 0, 1], 8080).into(),
            accent: None,
        }),
        database_url: settings.database_url,
        relays: settings.relays,
        limits: settings.limits,
        providers: settings.providers,
        dkim: settings.dkim,
        sender: settings.sender.unwrap_or_else(|| Sender {
            name: String::new(),
            email: "nobody@localhost.example".to_owned(),
            reply_to: None,
            postal_address: String::new(),
        }),
        delivery: settings.delivery,
        log: settings.log,
        secret: settings.secret,
        retired_secrets: settings.retired_secrets,
        consent: settings.permission.consent,
        form_limits: settings.permission.forms,
        retention: settings.permission.retention,
        behaviour: settings.response.behaviour,
        events,
        tracking: settings.response.tracking,
        engagement: settings.response.engagement,
        attribution: settings.response.attribution,
        rights: settings.permission.rights,
        profile,
        forms,
        languages,
        attributes: settings.attributes,
        topics: topics.entries,
        segments,
        campaigns,
        messages,
        layouts,
        sources: report.sources,
    };
    Ok(Draft {
        config,
        campaign_names,
        topic_names: topics.names,
        attributes_whole: settings.attributes_whole,
        segments_whole,
        problems: report.list,
    })
}

/// The folder as people write it: without `./` in front, relative to the working directory where it
/// lies below it.
fn shown(dir: &Path) -> PathBuf {
    let working = std::env::current_dir().unwrap_or_default();
    let below = dir.strip_prefix(".").or_else(|_| dir.strip_prefix(&working)).ok();
    below.filter(|rest| !rest.as_os_str().is_empty()).unwrap_or(dir).to_owned()
}

/// Reads a file of text and keeps it; reports what prevents that. A byte order mark is dropped.
pub(super) fn read_text(file: &Path, report: &mut Report) -> Option<String> {
    let bytes = match std::fs::metadata(file)
        .and_then(|metadata| if metadata.len() > MAX_FILE_BYTES { Ok(None) } else { std::fs::read(file).map(Some) })
    {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            report.file(
                file,
                format!("the file is larger than {MAX_FILE_BYTES} bytes"),
                "split it, or host pictures elsewhere and link to them",
            );
            return None;
        }
        Err(error) => {
            report.file(file, format!("the file cannot be read: {error}"), "check that it exists and that this user may read it");
            return None;
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => {
            let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
            report.sources.add(file, text.as_str());
            Some(text)
        }
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            // What stands before the bad byte is kept, so that the problem has a line.
            report.sources.add(file, String::from_utf8_lossy(error.as_bytes()).into_owned());
            report.at(
                file,
                at..at + 1,
                format!("the file is not UTF-8: the byte at offset {at} does not belong there"),
                "save it as UTF-8",
            );
            None
        }
    }
}

/// The topics, and the names that stand in the file although something in them is wrong.
pub(super) struct Topics {
    pub(super) entries: BTreeMap<String, Topic>,
    pub(super) names: BTreeSet<String>,
    /// The file could be read, so that a name that is not in it is a mistake.
    pub(super) complete: bool,
}

fn read_topics(dir: &Path, languages: &BTreeSet<String>, report: &mut Report) -> Topics {
    let mut topics = Topics { entries: BTreeMap::new(), names: BTreeSet::new(), complete: true };
    each_table(&dir.join("topics.toml"), "topic", report, |key, section, report| {
        topics.names.insert(key.to_owned());
        let place = section.place();
        if !section.has("name") {
            section.missing("name", "recipients see it: `name = \"Tea letter\"`", report);
        }
        let texts = localised::texts(section, ["name", "description"], languages, report);
        let double_opt_in = checked(section, "opt_in", None, |text| check::one_of(text, &[("double", ()), ("single", ())]), report);
        let purpose = checked(section, "purpose", None, check::line, report).map(|purpose| purpose.value);
        let advertising = section.raw("advertising", None).and_then(|raw| raw.boolean(report)).unwrap_or(false);
        let welcome = checked(section, "welcome", None, check::line, report).map(Value::located);
        let coupons = checked(section, "coupons", None, |text| check::name("coupon pool", text), report).map(|pool| pool.value);
        let topic = (!texts[0].is_empty()).then(|| Topic {
            place,
            name: texts[0].text.clone(),
            description: texts[1].text.clone(),
            texts,
            purpose: purpose.unwrap_or_else(|| "marketing".to_owned()),
            advertising,
            welcome,
            coupons,
            double_opt_in: double_opt_in.is_none_or(|opt_in| opt_in.value == "double"),
        });
        topics.entries.extend(topic.map(|topic| (key.to_owned(), topic)));
    })
    .unwrap_or_else(|| topics.complete = false);
    topics
}

fn read_segments(dir: &Path, report: &mut Report) -> BTreeMap<String, Segment> {
    let mut segments = BTreeMap::new();
    let _ = each_table(&dir.join("segments.toml"), "segment", report, |key, section, report| {
        let hint = "say whom it picks: `where = \"city = 'Taipei'\"`";
        let rule = required(section, "where", None, check::lines, hint, report).map(Value::located);
        let description = checked(section, "description", None, check::lines, report).map(|description| description.value);
        let history = section.raw("history", None).and_then(|raw| raw.boolean(report)).unwrap_or(true);
        segments.extend(rule.map(|rule| (key.to_owned(), Segment { rule, description, history })));
    });
    segments
}

/// Calls `read` with every table of a file whose tables carry names. A missing file has none; the
/// answer is `None` when the file could not be read as a whole.
pub(super) fn each_table(
    file: &Path,
    what: &str,
    report: &mut Report,
    mut read: impl FnMut(&str, &mut super::reader::Section<'_>, &mut Report),
) -> Option<()> {
    if !file.exists() {
        return Some(());
    }
    let text = read_text(file, report)?;
    let document = Document::parse(file, &text, report);
    let mut root = document.root();
    for (at, (key, place)) in root.keys().into_iter().enumerate() {
        if at == MAX_ENTRIES {
            report.at(file, place.span.clone(), format!("more than {MAX_ENTRIES} tables"), format!("remove each {what} that is not used"));
            break;
        }
        if let Err((message, hint)) = check::name(what, &key) {
            report.at(file, place.span, message, hint);
        }
        let mut section = root.section(&key, report);
        if section.exists() {
            read(&key, &mut section, report);
            section.finish(report);
        }
    }
    (!document.broken).then_some(())
}

fn read_languages(dir: &Path, report: &mut Report) -> BTreeMap<String, SourceText> {
    let mut languages = BTreeMap::new();
    for file in files_in(&dir.join("languages"), report) {
        if file.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let tag = stem(&file);
        if let Err((message, hint)) = check::language(&tag) {
            report.file(&file, message, hint);
        }
        if let Some(text) = read_text(&file, report) {
            languages.insert(tag, SourceText { file, text });
        }
    }
    languages
}

/// A topic's welcome is a message template that is there.
fn check_welcomes(topics: &Topics, messages: &BTreeMap<String, super::MessageTemplate>, report: &mut Report) {
    for welcome in topics.entries.values().filter_map(|topic| topic.welcome.as_ref()) {
        let Some(place) = welcome.place.as_ref().filter(|_| !messages.contains_key(&welcome.value)) else { continue };
        let hint = match did_you_mean(&welcome.value, messages.keys().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("it would be the file `messages/{}.toml`", welcome.value),
        };
        report.at(&place.file, place.span.clone(), format!("there is no message template `{}`", welcome.value), hint);
    }
}

fn read_layouts(dir: &Path, report: &mut Report) -> BTreeMap<String, SourceText> {
    let mut layouts = BTreeMap::new();
    for file in files_in(&dir.join("layouts"), report) {
        if file.extension().is_none_or(|extension| extension != "html") {
            continue;
        }
        let name = stem(&file);
        if let Err((message, hint)) = check::name("layout", &name) {
            report.file(&file, message, hint);
        }
        if campaigns::BUILT_IN_LAYOUTS.contains(&name.as_str()) || name == messages::BUILT_IN_LAYOUT {
            report.file(&file, format!("`{name}` is a layout that is built in"), "give yours another name");
        }
        if let Some(text) = read_text(&file, report) {
            layouts.insert(name, SourceText { file, text });
        }
    }
    layouts
}

/// The files of a folder by name, without hidden ones; nothing when there is no such folder.
pub(super) fn files_in(dir: &Path, report: &mut Report) -> Vec<PathBuf> {
    if !dir.exists() {
        return Vec::new();
    }
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            report.file(dir, format!("the folder cannot be read: {error}"), "check that it is a folder and that this user may read it");
            return Vec::new();
        }
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.retain(|file| !file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')));
    files.sort();
    files
}

/// A file's name without its extension.
pub(super) fn stem(file: &Path) -> String {
    file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A `topic.toml` that nobody reads is a mistake too.
fn unknown_files(dir: &Path, report: &mut Report) {
    for file in files_in(dir, report) {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if !name.ends_with(".toml") || FILES.contains(&name.as_str()) {
            continue;
        }
        let hint = match did_you_mean(&name, FILES.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "campaigns stand in `campaigns/`; read here are `optin.toml`, `topics.toml` and `segments.toml`".to_owned(),
        };
        report.file(&file, "nothing reads this file", hint);
    }
}

fn unknown_variables(overrides: &Overrides<'_>, report: &mut Report) {
    for (name, _) in overrides.environment.iter() {
        if !name.starts_with(PREFIX) || overrides.known.contains(name) || RESERVED.contains(&name) {
            continue;
        }
        let known = overrides.known.iter().map(String::as_str).chain(RESERVED.iter().copied());
        let hint = match did_you_mean(name, known) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "a setting's variable is `OPTIN_SECTION__KEY`, such as `OPTIN_DATABASE__URL`".to_owned(),
        };
        report.list.push(report.sources.problem(None, format!("environment variable `{name}` means nothing"), hint));
    }
}
