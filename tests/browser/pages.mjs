// Every page that a recipient can see: how to come there, what it must say, and how it must answer.
//
//   name     of the pictures, target/browser/NAME-LANGUAGE-SIZE.png
//   open     brings a visitor there, in a language
//   heading  the text of languages/*.toml that its h1 says (without the values filled in)
//   status   of the answer; 200 unless told
//   site     which of the running sites; the ordinary one unless told
//   tags     languages; all unless told
//   mail     a mail shown as a page: its frame and policy are the mail's own
//   form     a form that anybody may open: it may tell our own site where somebody comes from
//   policy   what it is allowed beyond our own style: { script: true } for a proof of work
import { leaveByPage, pending } from "./ways.mjs";
import { link } from "./stage.mjs";

export const PAGES = [
  { name: "home", heading: "home_title", open: (visitor, stage, lang) => visitor.open("/", lang) },
  { name: "not-found", heading: "not_found_title", status: 404, open: (visitor, stage, lang) => visitor.open("/nowhere/at/all", lang) },
  { name: "not-ours", heading: "not_ours_title", status: 404, open: (visitor, stage, lang) => visitor.open("/u/nonsense", lang) },
  {
    name: "unsubscribe",
    heading: "unsubscribe_title",
    open: async (visitor, stage, lang) => visitor.open(link((await stage.person()).letter, "/u/"), lang),
  },
  {
    name: "unsubscribed",
    heading: "done_title",
    open: async (visitor, stage, lang) => leaveByPage(visitor, (await stage.person()).letter, { lang }),
  },
  {
    name: "unsubscribed-from-all",
    heading: "done_title",
    open: async (visitor, stage, lang) => leaveByPage(visitor, (await stage.person()).letter, { lang, what: "all" }),
  },
  {
    name: "unsubscribed-already",
    heading: "unsubscribe_title",
    open: async (visitor, stage, lang) => {
      const { letter } = await stage.person();
      await leaveByPage(visitor, letter, { lang });
      await visitor.open(link(letter, "/u/"), lang);
    },
  },
  {
    name: "unsubscribed-before",
    heading: "done_before_title",
    open: async (visitor, stage, lang) => {
      // The page stood open while they left elsewhere.
      const { email, letter } = await stage.person();
      await visitor.open(link(letter, "/u/"), lang);
      await stage.optin("consent", "withdraw", email, "--topic", "tea-letter", "--source", "by telephone");
      await visitor.press("button[value=topic]", "click");
    },
  },
  { name: "gone", heading: "gone_title", open: (visitor, stage, lang) => visitor.open(stage.signed.gone, lang) },
  {
    name: "preferences",
    heading: "preferences_title",
    open: async (visitor, stage, lang) => visitor.open(link((await stage.person()).letter, "/p/"), lang),
  },
  {
    name: "preferences-saved",
    heading: "preferences_title",
    open: async (visitor, stage, lang) => {
      const { email, letter } = await stage.person();
      await stage.optin("consent", "withdraw", email, "--topic", "offers", "--source", "by telephone");
      await visitor.open(link(letter, "/p/"), lang);
      for (const topic of await visitor.page.$$("input[name=topic]")) await topic.click();
      await visitor.press("button[name=save]", "click");
    },
  },
  {
    name: "preferences-branded",
    heading: "preferences_title",
    site: "branded",
    tags: ["en"],
    open: async (visitor, stage, lang) => visitor.open(new URL(link((await stage.person()).letter, "/p/")).pathname, lang),
  },
  {
    name: "confirm",
    heading: "confirm_title",
    open: async (visitor, stage, lang) => visitor.open(link((await pending(stage)).mail, "/s/"), lang),
  },
  {
    name: "confirmed",
    heading: "confirmed_title",
    open: async (visitor, stage, lang) => {
      await visitor.open(link((await pending(stage)).mail, "/s/"), lang);
      await visitor.press("button[name=confirm]", "click");
    },
  },
  {
    name: "confirm-closed",
    heading: "confirm_closed_title",
    open: async (visitor, stage, lang) => {
      const { email, mail } = await pending(stage);
      // The page stood open while they confirmed elsewhere and left again.
      await visitor.open(link(mail, "/s/"), lang);
      const elsewhere = await (await stage.visit()).open(link(mail, "/s/"));
      await elsewhere.press("button[name=confirm]", "click");
      stage.complain(await elsewhere.leave());
      await stage.optin("consent", "withdraw", email, "--topic", "tea-letter", "--source", "by telephone");
      await visitor.press("button[name=confirm]", "click");
    },
  },
  {
    name: "confirm-expired",
    heading: "confirm_expired_title",
    status: 410,
    site: "later",
    open: async (visitor, stage, lang) => visitor.open(new URL(link((await pending(stage)).mail, "/s/")).pathname, lang),
  },
  {
    name: "view",
    mail: true,
    tags: ["en"],
    open: async (visitor, stage) => {
      // Else the checker could not run in the mail's sandbox; a test of its own looks at the policy.
      await visitor.page.setBypassCSP(true);
      await visitor.open(link((await stage.person()).letter, "/v/"));
    },
  },
  { name: "view-gone", heading: "view_gone_title", status: 410, open: (visitor, stage, lang) => visitor.open(stage.signed.view_gone, lang) },
  {
    name: "unavailable",
    heading: "unavailable_title",
    status: 503,
    site: "broken",
    open: (visitor, stage, lang) => visitor.open(stage.signed.unsubscribe, lang),
  },
];
