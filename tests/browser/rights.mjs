// A person's own data: asked for on the preference page, done only by the link of a fresh mail.
import { link, same } from "./stage.mjs";

// Asks, and answers the link of the mail that comes to the address itself.
async function ask(visitor, stage, { action, by = "click", lang } = {}) {
  const { email, letter } = await stage.person();
  await visitor.open(link(letter, "/p/"), lang);
  await visitor.press(`button[name=action][value=${action}]`, by);
  const mail = await stage.mail(email, (mail) => mail.text.includes("/r/"), "the mail with the link to one's data");
  return { email, address: link(mail, "/r/") };
}

export const PAGES = [
  {
    name: "rights-sent",
    heading: "rights_sent_title",
    open: async (visitor, stage, lang) => {
      await visitor.open(link((await stage.person()).letter, "/p/"), lang);
      await visitor.press("button[name=action][value=export]", "click");
    },
  },
  {
    name: "rights-export",
    heading: "rights_export_title",
    open: async (visitor, stage, lang) => visitor.open((await ask(visitor, stage, { action: "export" })).address, lang),
  },
  {
    name: "rights-erase",
    heading: "rights_erase_title",
    open: async (visitor, stage, lang) => visitor.open((await ask(visitor, stage, { action: "erase" })).address, lang),
  },
  {
    name: "rights-erased",
    heading: "rights_erased_title",
    open: async (visitor, stage, lang) => {
      await visitor.open((await ask(visitor, stage, { action: "erase" })).address, lang);
      await visitor.press("button[name=confirm]", "click");
    },
  },
];

const both = (way) => ["keys", "click"].map((by) => ({ ...way, name: `${way.name}, by ${by}`, run: (visitor, stage) => way.run(visitor, stage, by) }));

export const WAYS = [
  ...both({
    name: "a copy of one's data",
    run: async (visitor, stage, by) => {
      const { email, address } = await ask(visitor, stage, { action: "export", by });
      await visitor.open(address);
      // The answer is a file, which no page follows; what it holds is looked at elsewhere.
      const body = new URLSearchParams({ confirm: "1" });
      await visitor.tabTo("button[name=confirm]");
      const answer = await fetch(address, { method: "POST", body });
      same([answer.status, answer.headers.get("content-disposition")?.startsWith("attachment")], [200, true], "the archive");
      same(await stage.standing(email, "tea-letter"), "subscribed", "asking costs nothing");
    },
  }),
  ...both({
    name: "one's data erased",
    run: async (visitor, stage, by) => {
      const { email, address } = await ask(visitor, stage, { action: "erase", by });
      await visitor.open(address);
      await visitor.open(address);
      same(await stage.standing(email, "tea-letter"), "subscribed", "a visit erases nothing");
      await visitor.press("button[name=confirm]", by);
      const gone = await stage.optin("contact", "show", email).then(() => "still here", () => "gone");
      same(gone, "gone", "after the button");
      await stage.optin("consent", "verify");
    },
  }),
];
