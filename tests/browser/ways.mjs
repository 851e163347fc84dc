// Every way in and out, done in the browser as a person does it, by keyboard and by pointer; then the
// ledger is asked whether it became true. `by` is "keys" or "click".
import { link, same } from "./stage.mjs";

const TOPIC = "tea-letter";

// Unsubscribes by the link in a letter.
export async function leaveByPage(visitor, letter, { by = "click", what = "topic", lang } = {}) {
  await visitor.open(link(letter, "/u/"), lang);
  await visitor.press(`button[name=leave][value=${what}]`, by);
}

// The checkbox of a topic of the preference page, by what stands beside it.
async function boxOf(visitor, name) {
  const id = await visitor.page.$$eval(
    "input[name=topic]",
    (boxes, name) => boxes.find((box) => box.closest("label").innerText.includes(name))?.value,
    name,
  );
  if (!id) throw new Error(`the page offers no “${name}”:\n${await visitor.text()}`);
  return `input[name=topic][value="${id}"]`;
}

// Somebody who left and asked to come back: they wait for the link in the mail they got.
export async function pending(stage) {
  const { email, letter } = await stage.person();
  await stage.optin("consent", "withdraw", email, "--topic", TOPIC, "--source", "by telephone");
  const visitor = await stage.visit();
  await visitor.open(link(letter, "/p/"), "en");
  await visitor.use(await boxOf(visitor, "Tea letter"), "click");
  await visitor.press("button[name=save]", "click");
  stage.complain(await visitor.leave());
  const mail = await stage.mail(email, (mail) => mail.text.includes("/s/"), "the mail that asks for a confirmation");
  return { email, mail };
}

// What the ledger says was done since the import, all of it on our pages.
async function done(stage, email, wanted) {
  const history = await stage.history(email);
  same(history.map((entry) => `${entry.topic} ${entry.action}`), wanted, "the ledger");
  for (const entry of history) if (!/^(page|one_click|form)\b/.test(entry.source)) throw new Error(`the ledger says it came by ${entry.source}`);
}

const both = (way) => ["keys", "click"].map((by) => ({ ...way, name: `${way.name}, by ${by}`, run: (visitor, stage) => way.run(visitor, stage, by) }));

export const WAYS = [
  ...both({
    name: "out of one topic by the page of a letter",
    run: async (visitor, stage, by) => {
      const { email, letter } = await stage.person();
      await visitor.open(link(letter, "/u/"));
      same(await stage.standing(email, TOPIC), "subscribed", "looking changes nothing");
      await leaveByPage(visitor, letter, { by });
      same(await stage.standing(email, TOPIC), "unsubscribed", "after the button");
      same(await stage.standing(email, "offers"), "subscribed", "the other topic");
      await done(stage, email, [`${TOPIC} withdrawn`]);
    },
  }),
  ...both({
    name: "out of everything by the page of a letter",
    run: async (visitor, stage, by) => {
      const { email, letter } = await stage.person();
      await leaveByPage(visitor, letter, { by, what: "all" });
      for (const topic of stage.topics) same(await stage.standing(email, topic), "unsubscribed", topic);
    },
  }),
  ...both({
    name: "from the goodbye to the preferences, and back in by the mail's button",
    run: async (visitor, stage, by) => {
      const { email, letter } = await stage.person();
      await leaveByPage(visitor, letter, { by });
      await visitor.press('main a[href*="/p/"]', by);
      await visitor.use(await boxOf(visitor, "Tea letter"), by);
      await visitor.press("button[name=save]", by);
      const waiting = await stage.standing(email, TOPIC);
      if (waiting === "subscribed") throw new Error("a tick alone subscribed them");
      const mail = await stage.mail(email, (mail) => mail.text.includes("/s/"), "the mail that asks for a confirmation");
      await visitor.open(link(mail, "/s/"));
      await visitor.open(link(mail, "/s/"));
      same(await stage.standing(email, TOPIC), waiting, "a visit confirms nothing");
      await visitor.press("button[name=confirm]", by);
      same(await stage.standing(email, TOPIC), "subscribed", "after the button");
    },
  }),
  ...both({
    name: "out of one topic by the preferences",
    run: async (visitor, stage, by) => {
      const { email, letter } = await stage.person();
      await visitor.open(link(letter, "/p/"));
      await visitor.use(await boxOf(visitor, "Offers"), by);
      await visitor.press("button[name=save]", by);
      same(await stage.standing(email, "offers"), "unsubscribed", "unticked");
      same(await stage.standing(email, TOPIC), "subscribed", "left ticked");
    },
  }),
  ...both({
    name: "out of everything by the preferences",
    run: async (visitor, stage, by) => {
      const { email, letter } = await stage.person();
      await visitor.open(link(letter, "/p/"));
      await visitor.press("button[name=leave][value=all]", by);
      for (const topic of stage.topics) same(await stage.standing(email, topic), "unsubscribed", topic);
    },
  }),
  {
    name: "out by the link that mail programs offer (RFC 8058)",
    run: async (visitor, stage) => {
      const { email, letter } = await stage.person();
      const address = letter.headers["list-unsubscribe"].match(/<(http[^>]+)>/)[1];
      const answer = await fetch(address, { method: "POST", body: new URLSearchParams({ "List-Unsubscribe": "One-Click" }), redirect: "error" });
      same(answer.status, 200, "the answer");
      same(await stage.standing(email, TOPIC), "unsubscribed", "after one click");
      // Who then looks at the address in a browser finds a page that knows.
      await visitor.open(address, "en");
      same((await visitor.text()).includes("Nothing is left to do"), true, "the page afterwards");
    },
  },
  {
    name: "a scanner with a browser of its own opens every link of a letter twice, and changes nothing",
    script: true,
    run: async (visitor, stage) => {
      const { email, letter } = await stage.person();
      const links = [...letter.html.matchAll(/href="(http[^"]+)"/g)].map(([, address]) => address.replaceAll("&amp;", "&"));
      const ours = links.filter((address) => new URL(address).origin === new URL(stage.sites.site).origin && !address.includes("/c/"));
      if (ours.length < 2) throw new Error(`the letter has no links of ours: ${links}`);
      for (const address of [...ours, ...ours]) await visitor.open(address);
      for (const topic of stage.topics) same(await stage.standing(email, topic), "subscribed", topic);
      await done(stage, email, []);
    },
  },
  ...both({
    name: "the language switch keeps the page and what it is about",
    run: async (visitor, stage, by) => {
      const { letter } = await stage.person();
      await visitor.open(link(letter, "/u/"));
      for (const lang of ["zh-Hant", "zh-Hans", "en"]) {
        await visitor.press(`.languages a[hreflang="${lang}"]`, by);
        same(await visitor.heading(), stage.words(lang, "unsubscribe_title"), lang);
      }
      await visitor.press('.languages a[hreflang="zh-Hant"]', by);
      await visitor.press("button[value=topic]", by);
      same(await visitor.heading(), stage.words("zh-Hant", "done_title"), "the answer is in the language that was chosen");
    },
  }),
];
