//! What a transactional message says: a template of the instance with the caller's `data`, or what
//! the caller wrote.

use minijinja::Value;
use minijinja::value::Serde;
use sha2::{Digest, Sha256};

use super::lawful::FrameSettings;
use super::parameters::Parameters;
use super::prepare::{MAX_LINE_BYTES, MAX_MAIL_BYTES, NoLinks, prepare_for};
use super::system::SystemText;
use super::vault::Vault;
use super::{ContentProblem, Lane, LinkMaker, Mail, Part, Prepared, RenderError, context, plain_text, render};
use crate::campaign::{Definition, DeliverySettings, LinkParameters, TopicFrame};
use crate::clock::Time;
use crate::config::{BodyKind, Config, MessageTemplate, Sender};
use crate::contact::{Contact, Schema};

/// A frozen message: a complete copy of what it is written from, so that every attempt says the same
/// after the files have changed.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageDefinition {
    /// A template of the instance.
    Template {
        /// Its name.
        name: String,
        /// Template.
        subject: String,
        /// Template.
        preheader: Option<String>,
        /// Layout name.
        layout: String,
        /// Text of the layout where it is the instance's own.
        layout_text: Option<String>,
        /// Text of the body.
        body: String,
        /// How the body is written.
        body_kind: BodyKind,
        /// Who writes.
        sender: Sender,
        /// People subscribed to it: its foot says how to leave.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        welcome: bool,
    },
    /// One of the engine's own mails: `data` is its [`SystemText`].
    System {
        /// Who writes.
        sender: Sender,
    },
    /// What the caller wrote, sent as it is: it is no template, because callers glue it together from
    /// what their customers typed.
    Inline {
        /// As it is.
        subject: String,
        /// As it is.
        html: Option<String>,
        /// As it is; written from the HTML where there is none.
        text: Option<String>,
        /// Who writes.
        sender: Sender,
    },
}

impl MessageDefinition {
    /// Freezes a template of the configuration.
    pub fn of_template(config: &Config, template: &MessageTemplate) -> Self {
        MessageDefinition::Template {
            name: template.name.clone(),
            subject: template.subject.value.clone(),
            preheader: template.preheader.as_ref().map(|preheader| preheader.value.clone()),
            layout: template.layout.value.clone(),
            layout_text: config.layouts.get(&template.layout.value).map(|layout| layout.text.clone()),
            body: template.body_source.text.clone(),
            body_kind: template.body_kind,
            sender: template.sender.clone().unwrap_or_else(|| config.sender.clone()),
            welcome: false,
        }
    }

    /// The same template, sent to whoever has just subscribed.
    pub fn of_welcome(config: &Config, template: &MessageTemplate) -> Self {
        let mut definition = MessageDefinition::of_template(config, template);
        if let MessageDefinition::Template { welcome, .. } = &mut definition {
            *welcome = true;
        }
        definition
    }

    /// Who writes.
    pub fn sender(&self) -> &Sender {
        match self {
            MessageDefinition::Template { sender, .. }
            | MessageDefinition::System { sender }
            | MessageDefinition::Inline { sender, .. } => sender,
        }
    }

    /// The template's name; `None` for what the caller wrote.
    pub fn template(&self) -> Option<&str> {
        match self {
            MessageDefinition::Template { name, .. } => Some(name),
            MessageDefinition::System { .. } | MessageDefinition::Inline { .. } => None,
        }
    }

    /// As stored.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a definition is plain data")
    }

    /// SHA-256 of [`MessageDefinition::to_json`], in hex.
    pub fn hash(&self) -> String {
        let digest = Sha256::digest(self.to_json().as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A message's content, ready to be written.
#[derive(Debug)]
pub enum PreparedMessage {
    /// A compiled template.
    Template(Box<Prepared>),
    /// Laid out anew for each.
    System(Sender),
    /// The same for everybody.
    Inline(Mail),
}

/// Prepares a message's content, or answers everything that is wrong with it.
pub fn prepare_message(
    definition: &MessageDefinition,
    schema: &Schema,
    frame: &FrameSettings,
) -> Result<PreparedMessage, Vec<ContentProblem>> {
    match definition {
        MessageDefinition::Template { name, subject, preheader, layout, layout_text, body, body_kind, sender, welcome } => {
            // Campaign, topic and tracking are what a message has not; the lane keeps templates from using them.
            let definition = Definition {
                campaign: name.clone(),
                topic: String::new(),
                topic_name: String::new(),
                audience: None,
                subject: subject.clone(),
                preheader: preheader.clone(),
                layout: layout.clone(),
                layout_text: layout_text.clone(),
                body: body.clone(),
                body_kind: *body_kind,
                sender: sender.clone(),
                track_opens: false,
                track_clicks: false,
                delivery: DeliverySettings::default(),
                topic_frame: TopicFrame::default(),
                attribution: crate::config::CampaignAttribution::default(),
                link_parameters: LinkParameters::default(),
                honeypot: false,
            };
            let lane = if *welcome { Lane::Welcomes } else { Lane::Messages };
            Ok(PreparedMessage::Template(Box::new(prepare_for(lane, &definition, schema, frame)?)))
        }
        MessageDefinition::System { sender } => Ok(PreparedMessage::System(sender.clone())),
        MessageDefinition::Inline { subject, html, text, .. } => {
            inline(subject, html.as_deref(), text.as_deref()).map(PreparedMessage::Inline).map_err(|problem| vec![problem])
        }
    }
}

impl PreparedMessage {
    /// Writes it for one person. `data` is what a template sees under that name: a JSON object. `links`
    /// are those of a mail that people subscribed to.
    ///
    /// # Errors
    /// A field of `data` that the template needs is not there, or the message became too long.
    pub fn render(
        &self,
        contact: &Contact,
        data: &serde_json::Value,
        links: Option<&dyn LinkMaker>,
        now: Time,
    ) -> Result<Mail, RenderError> {
        match self {
            PreparedMessage::Template(prepared) => prepared.render_message(contact, Value::from(Serde(data)), links, now),
            PreparedMessage::System(sender) => {
                let text: SystemText = serde_json::from_value(data.clone())
                    .map_err(|error| RenderError { part: Part::Body, message: format!("what it says cannot be read: {error}") })?;
                Ok(text.write(sender, links))
            }
            PreparedMessage::Inline(mail) => Ok(mail.clone()),
        }
    }
}

/// A mail of what somebody wrote: one line is one line, control characters vanish. `html` stays empty
/// where there is only text.
fn inline(subject: &str, html: Option<&str>, text: Option<&str>) -> Result<Mail, ContentProblem> {
    let html = html.map(context::without_controls).unwrap_or_default();
    let text = match text {
        Some(text) => context::without_controls(text),
        None => {
            let written = plain_text::from_html(&html, &Vault::new(&[&html]));
            let in_body = |message| ContentProblem::new(Part::Body, None, message, "correct the HTML, or send `text` with it");
            render::finish_text(&written, &NoLinks, &Parameters::default()).map_err(in_body)?
        }
    };
    let longest = html.len().max(text.len());
    for (part, bytes, limit) in [(Part::Subject, subject.len(), MAX_LINE_BYTES), (Part::Body, longest, MAX_MAIL_BYTES)] {
        if bytes > limit {
            let message = format!("the {part} is {bytes} bytes long, and at most {limit} can be sent");
            return Err(ContentProblem::new(part, None, message, "shorten it"));
        }
    }
    Ok(Mail { subject: render::one_line(subject), preheader: String::new(), html, text })
}
