//! The languages of recipients' pages: which one a person reads, and its words.
//!
//! The words are constants of one struct, so that a language that lacks one does not compile.

mod en;
mod zh_hans;
mod zh_hant;

/// A language that recipients' pages are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Lang {
    /// English: also for everybody whose language we do not have.
    #[default]
    En,
    /// Chinese in simplified characters.
    ZhHans,
    /// Chinese in traditional characters.
    ZhHant,
}

impl Lang {
    /// All, in the order of the language switch.
    pub const ALL: [Lang; 3] = [Lang::En, Lang::ZhHans, Lang::ZhHant];

    /// BCP 47 tag, for `lang` attributes and `?lang=`.
    pub fn tag(self) -> &'static str {
        match self {
            Lang::En => "en",
            Lang::ZhHans => "zh-Hans",
            Lang::ZhHant => "zh-Hant",
        }
    }

    /// Its name in itself.
    pub fn name(self) -> &'static str {
        match self {
            Lang::En => "English",
            Lang::ZhHans => "简体中文",
            Lang::ZhHant => "繁體中文",
        }
    }

    /// Its words.
    pub fn words(self) -> &'static Words {
        match self {
            Lang::En => &en::WORDS,
            Lang::ZhHans => &zh_hans::WORDS,
            Lang::ZhHant => &zh_hant::WORDS,
        }
    }

    /// The language of a tag such as `zh-TW`, `zh_Hant_HK` or `en-GB`; `None` when we lack it.
    /// Chinese without a script is told by region (RFC 5646 leaves it open): Taiwan, Hong Kong and
    /// Macau write traditional characters.
    pub fn from_tag(tag: &str) -> Option<Lang> {
        let lower = tag.trim().to_ascii_lowercase().replace('_', "-");
        let mut parts = lower.split('-');
        match parts.next()? {
            "en" => Some(Lang::En),
            "zh" | "cmn" | "yue" => {
                let rest: Vec<&str> = parts.collect();
                let traditional =
                    rest.contains(&"hant") || (!rest.contains(&"hans") && rest.iter().any(|part| matches!(*part, "tw" | "hk" | "mo")));
                Some(if traditional { Lang::ZhHant } else { Lang::ZhHans })
            }
            _ => None,
        }
    }

    /// The best language of an `Accept-Language` header (RFC 9110, 12.5.4).
    pub fn from_accept_language(header: &str) -> Option<Lang> {
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
            if let Some(lang) = Lang::from_tag(tag)
                && best.is_none_or(|(highest, _)| quality > highest)
            {
                best = Some((quality, lang));
            }
        }
        best.map(|(_, lang)| lang)
    }

    /// What the person chose on the page, else what we know of them, else what their browser says.
    pub fn negotiate(chosen: Option<&str>, contact_locale: Option<&str>, accept_language: Option<&str>) -> Lang {
        chosen
            .and_then(Lang::from_tag)
            .or_else(|| contact_locale.and_then(Lang::from_tag))
            .or_else(|| accept_language.and_then(Lang::from_accept_language))
            .unwrap_or_default()
    }
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
        /// Every text of the recipients' pages in one language. `{topic}`, `{address}`, `{sender}`
        /// are filled in with [`fill`].
        #[derive(Debug)]
        #[expect(missing_docs, reason = "the texts themselves say what they are for")]
        pub struct Words { $($(#[doc = $doc])* pub $name: &'static str),* }

        #[cfg(test)]
        impl Words {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_lead_to_the_right_script() {
        for (tag, lang) in [
            ("en", Some(Lang::En)),
            ("en-GB", Some(Lang::En)),
            ("zh", Some(Lang::ZhHans)),
            ("zh-CN", Some(Lang::ZhHans)),
            ("zh-SG", Some(Lang::ZhHans)),
            ("zh_TW", Some(Lang::ZhHant)),
            ("zh-HK", Some(Lang::ZhHant)),
            ("zh-Hant-CN", Some(Lang::ZhHant)),
            ("zh-Hans-TW", Some(Lang::ZhHans)),
            ("ZH-HANT", Some(Lang::ZhHant)),
            ("de", None),
            ("", None),
            ("english", None),
        ] {
            assert_eq!(Lang::from_tag(tag), lang, "{tag}");
        }
    }

    #[test]
    fn the_browsers_order_and_weights_are_followed() {
        for (header, lang) in [
            ("de-DE,de;q=0.9,zh-TW;q=0.8,en;q=0.7", Some(Lang::ZhHant)),
            ("en;q=0.5, zh-CN", Some(Lang::ZhHans)),
            ("zh;q=0, en;q=0.1", Some(Lang::En)),
            ("fr", None),
            ("*", None),
            ("en;q=nonsense", None),
            (",,;;q=,", None),
        ] {
            assert_eq!(Lang::from_accept_language(header), lang, "{header}");
        }
    }

    #[test]
    fn a_choice_beats_the_contact_and_the_contact_beats_the_browser() {
        assert_eq!(Lang::negotiate(Some("en"), Some("zh-TW"), Some("zh-CN")), Lang::En);
        assert_eq!(Lang::negotiate(None, Some("zh-TW"), Some("zh-CN")), Lang::ZhHant);
        assert_eq!(Lang::negotiate(Some("xx"), Some("fr"), Some("zh-CN")), Lang::ZhHans);
        assert_eq!(Lang::negotiate(None, None, None), Lang::En);
    }

    #[test]
    fn no_word_is_empty_and_all_languages_fill_in_the_same_values() {
        fn places(text: &str) -> Vec<&str> {
            let mut out: Vec<&str> = text.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(name, _)| name).collect();
            out.sort_unstable();
            out
        }
        for ((name, en), (hans, hant)) in
            Lang::En.words().all().into_iter().zip(Lang::ZhHans.words().all().into_iter().zip(Lang::ZhHant.words().all()))
        {
            for other in [hans.1, hant.1] {
                assert!(!en.is_empty() && !other.is_empty(), "{name}");
                assert_eq!(places(en), places(other), "{name}");
            }
            assert_ne!(en, hans.1, "{name} is not translated");
        }
    }

    #[test]
    fn values_are_filled_in_once() {
        assert_eq!(fill("“{topic}” to {address}{x", &[("topic", "{address}"), ("address", "a")]), "“{address}” to a{x");
    }
}
