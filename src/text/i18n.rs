//! The languages of recipients' pages and mails: which one a person reads, and its words.
//!
//! Each language is one file of texts. Three come with optin (`languages/*.toml` of its source); a file of
//! the same form in the instance's `languages/` folder says something otherwise, or adds a language.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use toml::de::{DeTable, DeValue};

use crate::config::diagnostics::did_you_mean;
use crate::config::{BUILT_IN_LANGUAGES, SourceText};

/// The files that come with optin, in the order of [`BUILT_IN_LANGUAGES`].
const FILES: [&str; 3] =
    [include_str!("../../languages/en.toml"), include_str!("../../languages/zh-Hans.toml"), include_str!("../../languages/zh-Hant.toml")];

/// Scripts (ISO 15924) and languages (BCP 47) that run from right to left; a language file may bring them.
const RIGHT_TO_LEFT_SCRIPTS: [&str; 6] = ["Arab", "Hebr", "Syrc", "Thaa", "Nkoo", "Adlm"];
const RIGHT_TO_LEFT_LANGUAGES: [&str; 10] = ["ar", "ckb", "dv", "fa", "he", "ps", "sd", "ug", "ur", "yi"];

/// A language that pages and mails are written in. Its texts live as long as the process: they are read once,
/// at its start.
#[derive(Debug, Clone, Copy)]
pub struct Lang(&'static Language);

#[derive(Debug)]
struct Language {
    tag: String,
    name: String,
    words: Words,
}

impl PartialEq for Lang {
    fn eq(&self, other: &Lang) -> bool {
        self.0.tag == other.0.tag
    }
}

impl Eq for Lang {}

impl Lang {
    /// BCP 47 tag, for `lang` attributes and `?lang=`.
    pub fn tag(self) -> &'static str {
        &self.0.tag
    }

    /// Its name in itself.
    pub fn name(self) -> &'static str {
        &self.0.name
    }

    /// Whether it is written from right to left, for `dir` attributes: by its script where the tag names one.
    pub fn right_to_left(self) -> bool {
        let mut parts = self.tag().split('-');
        let language = parts.next().unwrap_or_default().to_ascii_lowercase();
        match parts.find(|part| part.len() == 4) {
            Some(script) => RIGHT_TO_LEFT_SCRIPTS.iter().any(|known| script.eq_ignore_ascii_case(known)),
            None => RIGHT_TO_LEFT_LANGUAGES.contains(&language.as_str()),
        }
    }

    /// Its words.
    pub fn words(self) -> &'static Words {
        &self.0.words
    }
}

/// The languages of an instance. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Languages(Arc<[Lang]>);

/// What is wrong with a file of an instance's `languages/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanguageProblem {
    /// The file.
    pub file: PathBuf,
    /// Where in it.
    pub span: Range<usize>,
    /// What.
    pub message: String,
    /// The next step.
    pub hint: String,
}

static BUILT_IN: LazyLock<Languages> = LazyLock::new(|| {
    let languages = BUILT_IN_LANGUAGES.iter().zip(FILES).map(|(tag, text)| {
        let texts = read(text).expect("our own files are TOML");
        let texts = texts.into_iter().map(|(key, (text, _))| (key, text)).collect();
        make(tag, texts).unwrap_or_else(|missing| panic!("languages/{tag}.toml lacks {missing:?}"))
    });
    Languages(languages.collect())
});

/// A colon, and what stands after it, in a language (a BCP 47 tag).
pub fn colon(tag: &str) -> &'static str {
    if tag.split('-').next().is_some_and(|language| matches!(language, "zh" | "ja")) { "：" } else { ": " }
}

impl Languages {
    /// Those that come with optin.
    pub fn built_in() -> Languages {
        BUILT_IN.clone()
    }

    /// Those and the ones of an instance, by tag.
    ///
    /// # Errors
    /// Every text that is unknown, missing (in a language that optin does not speak), or fills in other values
    /// than the English one.
    pub fn load(files: &BTreeMap<String, SourceText>) -> Result<Languages, Vec<LanguageProblem>> {
        let mut languages = BUILT_IN.0.to_vec();
        let english: BTreeMap<String, String> = languages[0].texts();
        let mut problems = Vec::new();
        for (tag, source) in files {
            let known = languages.iter().position(|lang| lang.tag() == tag);
            let problem =
                |span: Range<usize>, message: String, hint: String| LanguageProblem { file: source.file.clone(), span, message, hint };
            let found = match read(&source.text) {
                Ok(found) => found,
                Err((span, message)) => {
                    problems.push(problem(span, message, "a line reads `key = \"text\"`".to_owned()));
                    continue;
                }
            };
            let mut texts = known.map(|at| languages[at].texts()).unwrap_or_default();
            let before = problems.len();
            for (key, (text, span)) in found {
                let Some(original) = english.get(&key) else {
                    let hint = match did_you_mean(&key, english.keys().map(String::as_str)) {
                        Some(meant) => format!("did you mean `{meant}`?"),
                        None => "remove this line".to_owned(),
                    };
                    problems.push(problem(span, format!("no page or mail has a text `{key}`"), hint));
                    continue;
                };
                if key == "mail_months" && text.split(',').filter(|month| !month.trim().is_empty()).count() != 12 {
                    let hint = "write the twelve names of months with commas between them".to_owned();
                    problems.push(problem(span.clone(), "`mail_months` does not name twelve months".to_owned(), hint));
                }
                if places(original) != places(&text) {
                    let message = format!("`{key}` does not fill in what the English text does");
                    problems.push(problem(span, message, format!("the English text is: {original}")));
                }
                texts.insert(key, text);
            }
            if problems.len() > before {
                continue;
            }
            match make(tag, texts) {
                Ok(lang) => match known {
                    Some(at) => languages[at] = lang,
                    None => languages.push(lang),
                },
                Err(missing) => {
                    let message = format!("the language `{tag}` lacks {} text{}", missing.len(), if missing.len() == 1 { "" } else { "s" });
                    let listed: Vec<String> = missing.iter().take(20).map(|key| format!("`{key}`")).collect();
                    problems.push(problem(0..0, message, format!("translate {}", listed.join(", "))));
                }
            }
        }
        if problems.is_empty() { Ok(Languages(languages.into())) } else { Err(problems) }
    }

    /// All, in the order of the language switch.
    pub fn all(&self) -> impl Iterator<Item = Lang> {
        self.0.iter().copied()
    }

    /// English: also for everybody whose language we do not have.
    pub fn english(&self) -> Lang {
        self.0[0]
    }

    /// The language of a tag such as `zh-TW`, `zh_Hant_HK`, `en-GB` or `zh_TW.UTF-8`; `None` when we lack it.
    /// Chinese without a script is told by region (RFC 5646 leaves it open): Taiwan, Hong Kong and Macau
    /// write traditional characters.
    pub fn find(&self, tag: &str) -> Option<Lang> {
        let lower = tag.trim().to_ascii_lowercase().replace('_', "-");
        let lower = lower.split(['.', '@']).next().unwrap_or_default();
        let by_tag = |wanted: &str| self.all().find(|lang| lang.tag().eq_ignore_ascii_case(wanted));
        if let Some(lang) = by_tag(lower) {
            return Some(lang);
        }
        let mut parts = lower.split('-');
        match parts.next()? {
            "zh" | "cmn" | "yue" => {
                let rest: Vec<&str> = parts.collect();
                let traditional =
                    rest.contains(&"hant") || (!rest.contains(&"hans") && rest.iter().any(|part| matches!(*part, "tw" | "hk" | "mo")));
                by_tag(if traditional { "zh-hant" } else { "zh-hans" })
            }
            primary => {
                let is_primary = |lang: &Lang| lang.tag().split('-').next().is_some_and(|first| first.eq_ignore_ascii_case(primary));
                by_tag(primary).or_else(|| self.all().find(is_primary))
            }
        }
    }

    /// The best language of an `Accept-Language` header (RFC 9110, 12.5.4).
    pub fn of_accept_language(&self, header: &str) -> Option<Lang> {
        let mut best: Option<(f32, Lang)> = None;
        for range in header.split(',') {
            let (tag, parameters) = range.split_once(';').unwrap_or((range, ""));
            let quality: f32 = match parameters.trim().strip_prefix("q=") {
                Some(text) => text.trim().parse().unwrap_or(0.0),
                None => 1.0,
            };
            if quality <= 0.0 {
                continue;
            }
            if let Some(lang) = self.find(tag)
                && best.is_none_or(|(highest, _)| quality > highest)
            {
                best = Some((quality, lang));
            }
        }
        best.map(|(_, lang)| lang)
    }

    /// What the person chose on the page, else what we know of them, else what their browser says.
    pub fn negotiate(&self, chosen: Option<&str>, contact_locale: Option<&str>, accept_language: Option<&str>) -> Lang {
        chosen
            .and_then(|tag| self.find(tag))
            .or_else(|| contact_locale.and_then(|tag| self.find(tag)))
            .or_else(|| accept_language.and_then(|header| self.of_accept_language(header)))
            .unwrap_or(self.english())
    }
}

impl Default for Languages {
    fn default() -> Self {
        Languages::built_in()
    }
}

impl Lang {
    fn texts(self) -> BTreeMap<String, String> {
        let mut texts: BTreeMap<String, String> =
            self.words().all().into_iter().map(|(key, text)| (key.to_owned(), text.to_owned())).collect();
        texts.insert("name".to_owned(), self.name().to_owned());
        texts
    }
}

/// The texts of a file and where they stand, or the first place that is not understood.
type Texts = BTreeMap<String, (String, Range<usize>)>;

fn read(text: &str) -> Result<Texts, (Range<usize>, String)> {
    let table = DeTable::parse(text).map_err(|error| (error.span().unwrap_or(0..0), error.message().replace('\n', ", ")))?;
    let mut texts = BTreeMap::new();
    for (key, value) in table.get_ref() {
        match value.get_ref() {
            DeValue::String(text) if !text.trim().is_empty() => {
                texts.insert(key.get_ref().to_string(), (text.to_string(), value.span()));
            }
            _ => return Err((value.span(), format!("`{}` is not a text", key.get_ref()))),
        }
    }
    Ok(texts)
}

fn make(tag: &str, mut texts: BTreeMap<String, String>) -> Result<Lang, Vec<&'static str>> {
    let name = texts.remove("name");
    let mut texts: BTreeMap<String, &'static str> = texts.into_iter().map(|(key, text)| (key, &*text.leak())).collect();
    let words = Words::from_texts(|key| texts.remove(key));
    match (words, name) {
        (Ok(words), Some(name)) => Ok(Lang(Box::leak(Box::new(Language { tag: tag.to_owned(), name, words })))),
        (Err(missing), Some(_)) => Err(missing),
        (words, None) => Err(std::iter::once("name").chain(words.err().unwrap_or_default()).collect()),
    }
}

/// The names of the values that a text fills in.
fn places(text: &str) -> BTreeSet<&str> {
    text.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(name, _)| name).collect()
}

/// Puts values into a sentence: `{name}` becomes the value of that name. Values are not looked at
/// again, so a value that holds braces stays what it is.
pub fn fill(sentence: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(sentence.len() + 32);
    let mut rest = sentence;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        let Some(close) = rest[open..].find('}') else { break };
        let name = &rest[open + 1..open + close];
        match values.iter().find(|(key, _)| *key == name) {
            Some((_, value)) => out.push_str(value),
            None => out.push_str(&rest[open..=open + close]),
        }
        rest = &rest[open + close + 1..];
    }
    out.push_str(rest);
    out
}

macro_rules! words {
    ($($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {
        /// Every text of the recipients' pages and mails in one language. `{topic}`, `{address}`, `{sender}`
        /// and the like are filled in with [`fill`].
        #[derive(Debug)]
        #[expect(missing_docs, reason = "the texts themselves say what they are for")]
        pub struct Words { $($(#[doc = $doc])* pub $name: &'static str),* }

        impl Words {
            /// From the texts of a language, or the names of those it lacks.
            fn from_texts(mut text: impl FnMut(&str) -> Option<&'static str>) -> Result<Words, Vec<&'static str>> {
                let mut missing = Vec::new();
                let mut take = |key: &'static str| text(key).unwrap_or_else(|| { missing.push(key); "" });
                let words = Words { $($name: take(stringify!($name))),* };
                if missing.is_empty() { Ok(words) } else { Err(missing) }
            }

            fn all(&self) -> Vec<(&'static str, &'static str)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

words! {
    language_switch,
    // Unsubscribe
    unsubscribe_title,
    unsubscribe_question,
    unsubscribe_question_plain,
    unsubscribe_button,
    unsubscribe_all_button,
    unsubscribe_already,
    preferences_link,
    /// Plain text, the answer to a one-click request.
    one_click_done,
    // After it
    done_title,
    done_now,
    done_now_plain,
    done_before_title,
    done_before,
    done_before_plain,
    done_all_now,
    done_all_before,
    done_on_its_way,
    done_changed_mind,
    gone_title,
    gone_text,
    // Preferences
    preferences_title,
    preferences_text,
    preferences_save,
    preferences_nothing,
    preferences_pending,
    preferences_paused,
    preferences_saved,
    preferences_unchanged,
    preferences_confirm_first,
    // Confirm
    confirm_title,
    confirm_text,
    confirm_button,
    confirm_ignore,
    confirmed_title,
    confirmed_text,
    confirmed_before,
    confirm_expired_title,
    confirm_expired_text,
    confirm_closed_title,
    confirm_closed_text,
    // Trouble
    not_ours_title,
    not_ours_text,
    write_to_us,
    view_gone_title,
    view_gone_text,
    unavailable_title,
    unavailable_text,
    unavailable_mail,
    home_title,
    home_text,
    not_found_title,
    not_found_text,
    // The engine's own mails
    mail_button_fallback,
    confirm_mail_subject,
    confirm_mail_subject_many,
    confirm_mail_text,
    confirm_mail_text_many,
    confirm_mail_otherwise,
    remind_mail_subject,
    remind_mail_subject_many,
    remind_mail_text,
    remind_mail_text_many,
    remind_mail_last,
    digest_subject_one,
    digest_subject,
    digest_daily,
    digest_weekly,
    digest_monthly,
    digest_more,
    digest_each,
    // Fields of a profile
    field_optional,
    field_choose,
    field_yes,
    field_no,
    field_list_help,
    field_required,
    field_wants_choice,
    field_wants_number,
    field_wants_date,
    field_wants_zone,
    field_too_long,
    // Subscribing
    subscribe_title,
    subscribe_email,
    subscribe_topics,
    subscribe_button,
    subscribe_wording,
    subscribe_wording_one,
    subscribe_privacy,
    subscribe_trap,
    subscribe_email_wrong,
    subscribe_topics_none,
    subscribe_mistakes,
    subscribe_read_again,
    subscribe_press_again,
    subscribe_thanks_title,
    subscribe_thanks_text,
    subscribe_thanks_spam,
    subscribe_list_text,
    subscribe_limit_title,
    subscribe_limit_text,
    subscribe_limit_address,
    subscribe_prove_title,
    subscribe_prove_text,
    subscribe_wait_text,
    subscribe_wait_early,
    subscribe_prove_button,
    confirm_text_many,
    confirmed_text_many,
    question_title,
    question_text,
    question_save,
    question_skip,
    question_done_title,
    question_done_text,
    // Ways out and down, the preference centre
    less_title,
    less_digest,
    less_daily,
    less_weekly,
    less_monthly,
    less_pause,
    less_two_weeks,
    less_one_month,
    less_three_months,
    less_until,
    less_pause_button,
    less_topics,
    less_saved_title,
    less_nothing,
    day_wrong,
    why_title,
    why_text,
    why_too_many,
    why_not_relevant,
    why_never_signed_up,
    why_content,
    why_other,
    why_comment,
    why_button,
    why_done_title,
    why_done_text,
    why_objection_text,
    foreign_title,
    foreign_text,
    prefs_letters,
    prefs_often,
    often_every,
    prefs_pause,
    pause_none,
    pause_keep,
    pause_until,
    pause_open,
    pause_day,
    prefs_day,
    prefs_day_help,
    prefs_all,
    prefs_as_above,
    prefs_resume_all,
    prefs_language,
    prefs_language_help,
    prefs_tracking,
    tracking_full,
    tracking_full_help,
    tracking_anonymous,
    tracking_anonymous_help,
    tracking_none,
    tracking_none_help,
    tracking_chosen,
    tracking_of_country,
    tracking_of_instance,
    prefs_profiling,
    prefs_profiling_help,
    prefs_profile,
    prefs_profile_hidden,
    prefs_profile_button,
    prefs_profile_sent,
    prefs_more_by_mail,
    prefs_link_old,
    prefs_leave,
    prefs_data,
    prefs_data_text,
    prefs_export,
    prefs_erase,
    prefs_wrong,
    changed_left,
    changed_left_all,
    changed_joined,
    changed_often,
    changed_paused,
    changed_resumed,
    changed_language,
    changed_tracking,
    changed_profiling_refused,
    changed_profiling_allowed,
    changed_profile,
    profile_mail_subject,
    profile_mail_text,
    // Proof of consent
    proof_title,
    /// A line of the proof: what, and what is said about it.
    proof_line,
    proof_version,
    proof_person,
    proof_contact,
    proof_keeper,
    proof_made,
    proof_times,
    proof_none,
    proof_everything,
    proof_entry,
    proof_topic,
    proof_how,
    proof_import_line,
    proof_words,
    proof_purpose,
    proof_basis,
    proof_channel,
    proof_frequency,
    proof_until,
    proof_detail,
    proof_address,
    proof_client,
    proof_agent,
    proof_link_of,
    proof_asked_at,
    proof_mailed_at,
    proof_mail,
    proof_token,
    proof_other,
    proof_wording,
    proof_wording_gone,
    proof_erased,
    proof_origin_gone,
    proof_hash,
    proof_now,
    proof_since,
    proof_paused_until,
    proof_ends,
    proof_chain,
    proof_chain_whole,
    proof_chain_broken,
    proof_checkpoints,
    proof_shows,
    proof_shows_text,
    proof_not_shows,
    proof_not_shows_text,
    proof_action_requested,
    proof_action_granted,
    proof_action_confirmed,
    proof_action_withdrawn,
    proof_action_objected,
    proof_action_refreshed,
    proof_action_paused,
    proof_action_resumed,
    proof_action_changed,
    proof_action_erased,
    proof_action_expired,
    proof_basis_consent,
    proof_basis_soft_opt_in,
    proof_basis_implied,
    proof_basis_contract,
    proof_basis_legitimate_interest,
    proof_standing_none,
    proof_standing_pending,
    proof_standing_subscribed,
    proof_standing_paused,
    proof_standing_unsubscribed,
    // The frame of mails
    mail_view,
    mail_unsubscribe,
    mail_preferences,
    /// Why somebody gets a mail: nothing else known; since when; and where; and confirmed by a link.
    mail_because,
    mail_because_on,
    mail_because_at,
    mail_because_confirmed,
    mail_place_form,
    mail_place_page,
    /// That they may object.
    mail_notice,
    /// Where else to refuse advertising.
    mail_refuse,
    mail_date,
    /// Twelve, with commas between them.
    mail_months,
    // Rights
    rights_sent_title,
    rights_sent_text,
    rights_sent_again,
    rights_export_title,
    rights_export_question,
    rights_export_button,
    rights_export_hint,
    rights_erase_title,
    rights_erase_question,
    rights_erase_what,
    rights_erase_button,
    rights_erased_title,
    rights_erased_text,
    rights_waiting_title,
    rights_waiting_text,
    rights_over_title,
    rights_over_text,
    rights_mail_export_subject,
    rights_mail_export_text,
    rights_mail_erase_subject,
    rights_mail_erase_text,
    rights_mail_button,
    rights_mail_fallback,
    rights_mail_ignore,
    rights_doc_title,
    rights_doc_intro,
    rights_doc_none,
    rights_doc_times,
    rights_h_about,
    rights_h_fields,
    rights_h_topics,
    rights_h_choices,
    rights_h_history,
    rights_h_mails,
    rights_h_hits,
    rights_h_left,
    rights_h_why,
    rights_h_messages,
    rights_h_suppression,
    rights_h_coupons,
    rights_h_requests,
    rights_h_scores,
    rights_d_controller,
    rights_d_purposes,
    rights_d_recipients,
    rights_d_recipients_text,
    rights_d_sources,
    rights_d_sources_text,
    rights_d_kept,
    rights_d_days,
    rights_d_months,
    rights_d_kept_client,
    rights_d_kept_hits,
    rights_d_kept_messages,
    rights_d_kept_inactive,
    rights_d_kept_unconfirmed,
    rights_d_kept_else,
    rights_d_logic,
    rights_d_logic_text,
    rights_d_rights,
    rights_d_rights_text,
    rights_c_at,
    rights_c_field,
    rights_c_value,
    rights_c_topic,
    rights_c_status,
    rights_c_since,
    rights_c_frequency,
    rights_c_tracking,
    rights_c_profiling,
    rights_c_action,
    rights_c_source,
    rights_c_wording,
    rights_c_proof,
    rights_c_campaign,
    rights_c_subject,
    rights_c_reason,
    rights_c_kind,
    rights_c_link,
    rights_c_verdict,
    rights_c_ip,
    rights_c_agent,
    rights_c_comment,
    rights_c_data,
    rights_c_pool,
    rights_c_code,
    rights_c_due,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(files: &[(&str, &str)]) -> Result<Languages, Vec<LanguageProblem>> {
        let source = |tag: &str, text: &str| SourceText { file: format!("languages/{tag}.toml").into(), text: text.to_owned() };
        Languages::load(&files.iter().map(|(tag, text)| ((*tag).to_owned(), source(tag, text))).collect())
    }

    #[test]
    fn tags_lead_to_the_right_script() {
        let languages = Languages::built_in();
        for (tag, found) in [
            ("en", Some("en")),
            ("en-GB", Some("en")),
            ("zh", Some("zh-Hans")),
            ("zh-CN", Some("zh-Hans")),
            ("zh-SG", Some("zh-Hans")),
            ("zh_TW", Some("zh-Hant")),
            ("zh_TW.UTF-8", Some("zh-Hant")),
            ("zh-HK", Some("zh-Hant")),
            ("zh-Hant-CN", Some("zh-Hant")),
            ("zh-Hans-TW", Some("zh-Hans")),
            ("ZH-HANT", Some("zh-Hant")),
            ("de", None),
            ("", None),
            ("english", None),
        ] {
            assert_eq!(languages.find(tag).map(Lang::tag), found, "{tag}");
        }
    }

    #[test]
    fn the_browsers_order_and_weights_are_followed() {
        let languages = Languages::built_in();
        for (header, found) in [
            ("de-DE,de;q=0.9,zh-TW;q=0.8,en;q=0.7", Some("zh-Hant")),
            ("en;q=0.5, zh-CN", Some("zh-Hans")),
            ("zh;q=0, en;q=0.1", Some("en")),
            ("fr", None),
            ("*", None),
            ("en;q=nonsense", None),
            (",,;;q=,", None),
        ] {
            assert_eq!(languages.of_accept_language(header).map(Lang::tag), found, "{header}");
        }
    }

    #[test]
    fn a_choice_beats_the_contact_and_the_contact_beats_the_browser() {
        let languages = Languages::built_in();
        let tag = |chosen, locale, header| languages.negotiate(chosen, locale, header).tag();
        assert_eq!(tag(Some("en"), Some("zh-TW"), Some("zh-CN")), "en");
        assert_eq!(tag(None, Some("zh-TW"), Some("zh-CN")), "zh-Hant");
        assert_eq!(tag(Some("xx"), Some("fr"), Some("zh-CN")), "zh-Hans");
        assert_eq!(tag(None, None, None), "en");
    }

    #[test]
    fn all_languages_fill_in_the_same_values_and_none_is_english_by_mistake() {
        let [en, hans, hant] = Languages::built_in().all().collect::<Vec<_>>()[..] else { panic!("three languages") };
        for ((name, en), (hans, hant)) in en.words().all().into_iter().zip(hans.words().all().into_iter().zip(hant.words().all())) {
            for other in [hans.1, hant.1] {
                assert_eq!(places(en), places(other), "{name}");
            }
            assert_ne!(en, hans.1, "{name} is not translated");
            assert_ne!(en, hant.1, "{name} is not translated");
        }
    }

    #[test]
    fn a_file_says_something_otherwise_and_the_rest_stays() {
        let languages = own(&[("zh-Hant", "unsubscribe_button = \"退出\"")]).expect("fine");
        let lang = languages.find("zh-TW").expect("there");
        assert_eq!(lang.words().unsubscribe_button, "退出");
        assert_eq!(lang.words().preferences_save, Languages::built_in().find("zh-TW").expect("there").words().preferences_save);
    }

    #[test]
    fn a_language_of_ones_own_is_whole_or_an_error() {
        let problems = own(&[("de", "name = \"Deutsch\"")]).expect_err("texts are missing");
        assert!(problems[0].message.contains("lacks") && problems[0].hint.contains("`unsubscribe_title`"), "{problems:?}");
        let whole: String = Languages::built_in()
            .english()
            .texts()
            .iter()
            .map(|(key, text)| format!("{key} = {}\n", toml::Value::from(text.as_str())))
            .collect();
        let languages = own(&[("de-AT", &whole)]).expect("whole");
        assert_eq!(languages.find("de").map(Lang::tag), Some("de-AT"));
        assert_eq!(languages.find("de-CH").map(Lang::tag), Some("de-AT"));
    }

    #[test]
    fn languages_written_from_right_to_left_are_known_by_script_or_language() {
        let languages = Languages::built_in();
        let whole: String =
            languages.english().texts().iter().map(|(key, text)| format!("{key} = {}\n", toml::Value::from(text.as_str()))).collect();
        let languages = own(&[("ar", &whole), ("he-IL", &whole), ("uz-Arab", &whole), ("ar-Latn", &whole)]).expect("whole");
        let found: Vec<&str> = languages.all().filter(|lang| lang.right_to_left()).map(Lang::tag).collect();
        assert_eq!(found, ["ar", "he-IL", "uz-Arab"]);
    }

    #[test]
    fn slips_in_a_file_have_their_place() {
        let text = "unsubscribe_buton = \"x\"\ndone_now = \"{topic}\"\n";
        let problems = own(&[("en", text)]).expect_err("two slips");
        let said: Vec<_> = problems.iter().map(|problem| (problem.span.start, problem.hint.as_str())).collect();
        assert_eq!(said.len(), 2, "{problems:?}");
        assert!(problems.iter().any(|problem| problem.hint == "did you mean `unsubscribe_button`?"), "{problems:?}");
        assert!(problems.iter().any(|problem| problem.message.contains("`done_now`")), "{problems:?}");
        assert!(own(&[("en", "a b")]).is_err() && own(&[("en", "unsubscribe_button = 3")]).is_err());
    }

    #[test]
    fn values_are_filled_in_once() {
        assert_eq!(fill("“{topic}” to {address}{x", &[("topic", "{address}"), ("address", "a")]), "“{address}” to a{x");
    }
}
