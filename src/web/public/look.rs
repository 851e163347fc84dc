//! The look of an instance's own: its accent colour and its sign, made so that nothing gets unreadable.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::config::Colour;
use crate::web::Shared;

/// Least contrast of text (WCAG 2.2, 1.4.3, AA).
const TEXT_CONTRAST: f64 = 4.5;
/// How far a colour goes towards black or white at a time, in 256ths.
const STEP: u32 = 8;
/// Grounds that the accent stands on, as in `style.css`: the page and the card, light and dark.
const LIGHT: [Colour; 2] = [Colour([0xf5, 0xf4, 0xf0]), WHITE];
const DARK: [Colour; 2] = [Colour([0x13, 0x16, 0x14]), Colour([0x1c, 0x20, 0x1e])];
const WHITE: Colour = Colour([0xff; 3]);
const BLACK: Colour = Colour([0; 3]);
/// The accent of `style.css`.
const OWN_ACCENT: Colour = Colour([0x1f, 0x6b, 0x4a]);
/// The sign changes with the configuration; browsers ask again after a day, in seconds.
const ICON_CACHE: HeaderValue = HeaderValue::from_static("public, max-age=86400");

/// What pages wear beside the common style.
#[derive(Debug, Clone)]
pub struct Look {
    icon: Arc<str>,
    brand: Option<Arc<Brand>>,
}

/// Colours in place of our own, and the hash by which the policy lets them in.
#[derive(Debug)]
struct Brand {
    style: String,
    source: String,
}

impl Look {
    /// Of a sender with an accent colour of `[site]`.
    pub fn new(sender: &str, accent: Option<Colour>) -> Look {
        Look { icon: icon(sender, accent.unwrap_or(OWN_ACCENT)).into(), brand: accent.map(|accent| Arc::new(Brand::new(accent))) }
    }

    /// The colours, as a style sheet.
    pub(super) fn style(&self) -> Option<&str> {
        self.brand.as_ref().map(|brand| brand.style.as_str())
    }

    /// The sign as an address that needs no further request.
    pub(super) fn icon_address(&self) -> String {
        format!("data:image/svg+xml;base64,{}", STANDARD.encode(self.icon.as_bytes()))
    }

    /// Whether there are colours that the policy must let in.
    pub(in crate::web) fn is_branded(&self) -> bool {
        self.brand.is_some()
    }
}

impl Brand {
    fn new(accent: Colour) -> Brand {
        let style = format!(
            ":root{{{}}}@media (prefers-color-scheme:dark){{:root{{{}}}}}",
            variables(accent, &LIGHT, BLACK),
            variables(accent, &DARK, WHITE)
        );
        let source = format!("'sha256-{}'", STANDARD.encode(Sha256::digest(style.as_bytes())));
        Brand { style, source }
    }
}

/// The five variables of an accent: moved towards `end` until it can be read on every ground and on its own
/// tint, and what is written on it can be read too.
fn variables(accent: Colour, grounds: &[Colour; 2], end: Colour) -> String {
    let card = grounds[1];
    let tint_of = |accent: Colour| accent.towards(card, 228);
    let reads = |colour: Colour| grounds.iter().chain([&tint_of(colour)]).all(|ground| contrast(colour, *ground) >= TEXT_CONTRAST);
    let steps = (0..=256 / STEP).map(|step| accent.towards(end, step * STEP));
    let accent = steps.clone().find(|colour| reads(*colour)).unwrap_or(end);
    let strong = accent.towards(end, 72);
    let on_accent = if end == BLACK { WHITE } else { accent.towards(BLACK, 216) };
    let tint = tint_of(accent);
    format!("--accent:{accent};--accent-strong:{strong};--on-accent:{on_accent};--tint:{tint}")
}

/// The first letter of the sender on its colour. Browsers that find no icon ask for one at every visit.
fn icon(sender: &str, accent: Colour) -> String {
    let letter = sender.chars().find(|c| c.is_alphanumeric()).unwrap_or('✉');
    let ink = if contrast(WHITE, accent) >= contrast(BLACK, accent) { WHITE } else { BLACK };
    let mut svg = String::from("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 64 64'>");
    let _ = write!(
        svg,
        "<rect width='64' height='64' rx='14' fill='{accent}'/><text x='32' y='33' font-family='system-ui,sans-serif' font-size='38' \
         font-weight='700' text-anchor='middle' dominant-baseline='central' fill='{ink}'>{}</text></svg>",
        letter.to_uppercase()
    );
    svg
}

/// `GET /favicon.ico`: for pages that name no icon, such as a mail shown as a page.
pub(in crate::web) async fn favicon(State(app): State<Shared>) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("image/svg+xml")), (CACHE_CONTROL, ICON_CACHE)], app.look.icon.to_string()).into_response()
}

/// Lets the instance's own colours into the policies that name our own style by its hash; the policy of a mail
/// shown as a page does not.
pub(in crate::web) async fn allow(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Some(brand) = &app.look.brand
        && let Some(policy) = response.headers().get(CONTENT_SECURITY_POLICY).and_then(|policy| policy.to_str().ok())
    {
        let wider = policy.replacen("style-src 'sha256-", &format!("style-src {} 'sha256-", brand.source), 1);
        if let Ok(wider) = HeaderValue::from_str(&wider) {
            response.headers_mut().insert(CONTENT_SECURITY_POLICY, wider);
        }
    }
    response
}

/// How well one colour reads on the other, 1 to 21 (WCAG 2.2, "contrast ratio").
fn contrast(a: Colour, b: Colour) -> f64 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

/// WCAG 2.2, "relative luminance".
fn luminance(colour: Colour) -> f64 {
    let [red, green, blue] = colour.0.map(|channel| {
        let value = f64::from(channel) / 255.0;
        if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    });
    0.2126 * red + 0.7152 * green + 0.0722 * blue
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::web::public::STYLE;

    /// The variables of the first `:root{..}` after `start`, over those of `base`.
    fn palette(style: &str, start: &str, base: &BTreeMap<String, Colour>) -> BTreeMap<String, Colour> {
        let from = style.find(start).unwrap_or_else(|| panic!("no {start} in {style}"));
        let block = style[from..].split(":root{").nth(1).and_then(|rest| rest.split('}').next()).expect("a block of variables");
        let mut colours = base.clone();
        for (name, value) in block.split(';').filter_map(|line| line.split_once(':')) {
            if let (Some(name), Ok(colour)) = (name.strip_prefix("--"), value.parse()) {
                colours.insert(name.to_owned(), colour);
            }
        }
        colours
    }

    fn unreadable(colours: &BTreeMap<String, Colour>) -> Vec<String> {
        let texts = [
            ("ink", &["ground", "card", "tint", "danger-tint", "warning-tint"][..]),
            ("soft", &["ground", "card", "tint", "line"]),
            ("accent", &["ground", "card", "tint"]),
            ("accent-strong", &["ground", "card", "tint"]),
            ("on-accent", &["accent", "accent-strong"]),
            ("danger", &["card", "danger-tint"]),
            ("on-danger", &["danger", "danger-strong"]),
        ];
        let edges =
            [("edge", &["ground", "card"][..]), ("accent", &["ground", "card", "tint"]), ("danger", &["card"]), ("warning", &["card"])];
        let mut found = Vec::new();
        for (pairs, least) in [(&texts[..], TEXT_CONTRAST), (&edges[..], 3.0)] {
            for (front, backs) in pairs {
                for back in *backs {
                    let ratio = contrast(colours[*front], colours[*back]);
                    if ratio < least {
                        found.push(format!("{front} on {back}: {ratio:.2}"));
                    }
                }
            }
        }
        found
    }

    fn schemes(brand: Option<&str>) -> [BTreeMap<String, Colour>; 2] {
        const DARK_SCHEME: &str = "@media (prefers-color-scheme:dark)";
        let light = palette(STYLE, ":root", &BTreeMap::new());
        let dark = palette(STYLE, DARK_SCHEME, &light);
        match brand {
            Some(brand) => [palette(brand, ":root", &light), palette(brand, DARK_SCHEME, &dark)],
            None => [light, dark],
        }
    }

    #[test]
    fn our_own_colours_can_be_read_light_and_dark() {
        let [light, dark] = schemes(None);
        assert!(light.len() >= 14 && dark.len() == light.len() && light["card"] == LIGHT[1] && dark["card"] == DARK[1]);
        assert_eq!((light["ground"], dark["ground"], light["accent"]), (LIGHT[0], DARK[0], OWN_ACCENT));
        assert_eq!((unreadable(&light), unreadable(&dark)), (Vec::new(), Vec::new()));
        let mut pale = light;
        pale.insert("soft".to_owned(), Colour([0x99; 3]));
        assert!(!unreadable(&pale).is_empty(), "the check finds a pale text");
    }

    #[test]
    fn contrast_is_that_of_wcag() {
        assert!((contrast(BLACK, WHITE) - 21.0).abs() < 1e-9);
        // The grey that WCAG's own techniques name as the last that passes on white.
        assert!(contrast(Colour([0x76; 3]), WHITE) >= 4.5 && contrast(Colour([0x77; 3]), WHITE) < 4.5);
    }

    #[test]
    fn a_readable_accent_stays_what_it_was() {
        let blue = Colour([0x1b, 0x4f, 0x9c]);
        assert_eq!(schemes(Look::new("T", Some(blue)).style())[0]["accent"], blue);
    }

    #[test]
    fn the_sign_is_one_letter_whatever_the_sender_is_called() {
        for (sender, letter) in [("tea House", ">T<"), ("<b>&'\"茶", ">B<"), ("茶屋", ">茶<"), ("'\"<>", ">✉<")] {
            let look = Look::new(sender, None);
            assert!(look.icon.contains(letter), "{}", look.icon);
        }
    }

    proptest! {
        #[test]
        fn any_accent_becomes_readable(red: u8, green: u8, blue: u8) {
            let look = Look::new("T", Some(Colour([red, green, blue])));
            for scheme in schemes(look.style()) {
                prop_assert_eq!(unreadable(&scheme), Vec::<String>::new());
            }
        }
    }
}
