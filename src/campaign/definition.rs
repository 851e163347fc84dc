//! A campaign as it runs: a complete, serialisable copy of everything its content depends on, so
//! that what was sent can be shown again after the files have changed.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::config::{BodyKind, Campaign, CampaignAttribution, Config, Limit, Sender};

/// A frozen campaign.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Definition {
    /// Campaign name.
    pub campaign: String,
    /// Topic key.
    pub topic: String,
    /// Topic name as shown to recipients.
    pub topic_name: String,
    /// Segment name or expression as written; `None` for everyone subscribed.
    pub audience: Option<String>,
    /// Template.
    pub subject: String,
    /// Template.
    pub preheader: Option<String>,
    /// Layout name.
    pub layout: String,
    /// Text of the layout where it is the marketer's own; `None` for one that is built in.
    pub layout_text: Option<String>,
    /// Text of the body.
    pub body: String,
    /// How the body is written.
    pub body_kind: BodyKind,
    /// Who writes.
    pub sender: Sender,
    /// Record opens.
    pub track_opens: bool,
    /// Record clicks.
    pub track_clicks: bool,
    /// How its mails leave. Left out of what is stored where the campaign says nothing about it, so
    /// that the hash of a campaign stays what it was before there was such a table.
    #[serde(default, skip_serializing_if = "DeliverySettings::is_default")]
    pub delivery: DeliverySettings,
    /// What its frame says about the topic; left out of what is stored in the same way.
    #[serde(default, skip_serializing_if = "TopicFrame::is_default")]
    pub topic_frame: TopicFrame,
    /// How orders that came of its mails are shared, where that differs from the instance's; left out of what is
    /// stored in the same way.
    #[serde(default, skip_serializing_if = "CampaignAttribution::is_default")]
    pub attribution: CampaignAttribution,
    /// What links to websites get; left out of what is stored in the same way.
    #[serde(default, skip_serializing_if = "LinkParameters::is_default")]
    pub link_parameters: LinkParameters,
    /// A link that no person sees stands in its mails; left out of what is stored in the same way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub honeypot: bool,
}

/// The parameters that links to websites get.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LinkParameters {
    /// Templates, by name (`utm_source`).
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// Hosts whose links get them, with those below; empty: all.
    #[serde(default)]
    pub hosts: Vec<String>,
}

impl LinkParameters {
    fn is_default(&self) -> bool {
        *self == LinkParameters::default()
    }
}

/// What the frame of a mail needs to know of its topic, beside its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TopicFrame {
    /// Its mails advertise.
    #[serde(default)]
    pub advertising: bool,
    /// Its name in other languages, by tag.
    #[serde(default)]
    pub names: BTreeMap<String, String>,
}

impl TopicFrame {
    fn is_default(&self) -> bool {
        *self == TopicFrame::default()
    }
}

/// `[delivery]` of a campaign.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct DeliverySettings {
    /// Mails in a time, of each run.
    #[serde(default, skip_serializing_if = "Limit::is_none")]
    pub limit: Limit,
    /// The one relay to use; `None`: any that takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// Hours after which a refused mail is given up; `None`: as the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub give_up_hours: Option<u32>,
}

impl DeliverySettings {
    fn is_default(&self) -> bool {
        *self == DeliverySettings::default()
    }
}

impl Definition {
    /// Whether opens or clicks of its mails are recorded at all.
    pub fn tracks(&self) -> bool {
        self.track_opens || self.track_clicks
    }

    /// Freezes a campaign of the configuration.
    pub fn new(config: &Config, campaign: &Campaign) -> Self {
        let topic = config.topics.get(&campaign.topic.value);
        Definition {
            campaign: campaign.name.clone(),
            topic: campaign.topic.value.clone(),
            topic_name: topic.map_or_else(|| campaign.topic.value.clone(), |topic| topic.name.clone()),
            audience: campaign.audience.as_ref().map(|audience| audience.value.clone()),
            subject: campaign.subject.value.clone(),
            preheader: campaign.preheader.as_ref().map(|preheader| preheader.value.clone()),
            layout: campaign.layout.value.clone(),
            layout_text: config.layouts.get(&campaign.layout.value).map(|layout| layout.text.clone()),
            body: campaign.body_source.text.clone(),
            body_kind: campaign.body_kind,
            sender: campaign.sender.clone().unwrap_or_else(|| config.sender.clone()),
            track_opens: campaign.track_opens,
            track_clicks: campaign.track_clicks,
            delivery: DeliverySettings {
                limit: campaign.delivery.limit,
                relay: campaign.delivery.relay.as_ref().map(|relay| relay.value.clone()),
                give_up_hours: campaign.delivery.give_up_hours,
            },
            topic_frame: topic.map_or_else(TopicFrame::default, |topic| TopicFrame {
                advertising: topic.advertising,
                names: topic.texts[0].by_language.clone(),
            }),
            attribution: campaign.attribution,
            // Without parameters, hosts mean nothing.
            link_parameters: match campaign.utm.is_empty() {
                true => LinkParameters::default(),
                false => LinkParameters {
                    parameters: campaign.utm.iter().map(|(name, value)| (name.clone(), value.value.clone())).collect(),
                    hosts: campaign.utm_hosts.clone(),
                },
            },
            honeypot: config.tracking.honeypot,
        }
    }

    /// As stored with a run.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a definition is plain data")
    }

    /// SHA-256 of [`Definition::to_json`], in hex.
    pub fn hash(&self) -> String {
        let digest = Sha256::digest(self.to_json().as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
