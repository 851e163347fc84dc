//! The addresses that are personal to one delivery, and the headers made of them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::consent::Tracking;
use crate::content::{self, LinkMaker};
use crate::token::{Keys, Purpose};

/// Makes the links of one delivery.
pub struct DeliveryLinks<'a> {
    /// Signs.
    pub keys: &'a Keys,
    /// Public base address, without a trailing slash.
    pub site: &'a str,
    /// The delivery.
    pub delivery_id: i64,
    /// Its run.
    pub run_id: i64,
    /// The person.
    pub contact_id: i64,
    /// The topic.
    pub topic_id: i64,
    /// Record opens.
    pub track_opens: bool,
    /// As the person may be tracked: `none` means no image and plain links, `anonymous` links that lead to
    /// the run and nobody in it.
    pub tracking: Tracking,
}

impl DeliveryLinks<'_> {
    /// Target of the one-click POST (RFC 8058): its own token, so that a visit to this address
    /// tells a scanner from a person.
    pub fn one_click(&self) -> String {
        let token = self.keys.sign(Purpose::UnsubscribeHeader, &[self.contact_id, self.topic_id, self.delivery_id]);
        format!("{}/u/{token}", self.site)
    }

    /// The word that a mail to the unsubscribe address carries in its subject.
    pub fn mail_token(&self) -> String {
        self.keys.sign(Purpose::UnsubscribeMail, &[self.contact_id, self.topic_id, self.delivery_id])
    }
}

impl LinkMaker for DeliveryLinks<'_> {
    fn unsubscribe(&self) -> String {
        let token = self.keys.sign(Purpose::UnsubscribeBody, &[self.contact_id, self.topic_id, self.delivery_id]);
        format!("{}/u/{token}", self.site)
    }

    fn preferences(&self) -> String {
        let token = self.keys.sign(Purpose::Preferences, &[self.contact_id, self.topic_id, self.delivery_id]);
        format!("{}/p/{token}", self.site)
    }

    fn view(&self) -> String {
        format!("{}/v/{}", self.site, self.keys.sign(Purpose::View, &[self.delivery_id]))
    }

    fn open_pixel(&self) -> Option<String> {
        let token = match self.tracking {
            Tracking::Full => self.keys.sign(Purpose::Open, &[self.delivery_id]),
            Tracking::Anonymous => self.keys.sign(Purpose::AnonymousOpen, &[self.run_id]),
            Tracking::None => return None,
        };
        self.track_opens.then(|| format!("{}/o/{token}.gif", self.site))
    }

    fn trap(&self) -> Option<String> {
        let token = (self.tracking == Tracking::Full).then(|| self.keys.sign(Purpose::Trap, &[self.delivery_id]))?;
        Some(format!("{}/t/{token}", self.site))
    }

    fn is_personal_page(&self, url: &str) -> bool {
        content::is_personal_page(self.site, url)
    }

    fn track(&self, position: i64, url: &str) -> String {
        let token = match self.tracking {
            Tracking::Full => self.keys.sign_bound(Purpose::Click, &[self.delivery_id, position], url),
            Tracking::Anonymous => self.keys.sign_bound(Purpose::AnonymousClick, &[self.run_id, position], url),
            Tracking::None => return url.to_owned(),
        };
        format!("{}/c/{token}/{}", self.site, URL_SAFE_NO_PAD.encode(url))
    }
}
