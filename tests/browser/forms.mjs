// Ways in: hosted forms, with and without proof of work, the mail that asks back, one question after it.
import { setTimeout as pause } from "node:timers/promises";
import { link, same } from "./stage.mjs";

const FORM = "/subscribe/tea";
const SUBMIT = 'main form button:not([name])';

// Somebody nobody has heard of.
let strangers = 0;
const stranger = () => `stranger${++strangers}@newcomer.example`;

// Fills in the form as a person does: two topics, the address, a name.
async function fillIn(visitor, email, { by = "click", topics = ["tea-letter", "offers"] } = {}) {
  for (const topic of topics) await visitor.use(`input[name=topic][value="${topic}"]`, by);
  await visitor.fill("input[name=email]", email, by);
  await visitor.fill('input[name="f.first_name"]', "Mei", by);
}

export async function subscribe(visitor, email, { by = "click", lang } = {}) {
  await visitor.open(FORM, lang);
  await fillIn(visitor, email, { by });
  await visitor.press(SUBMIT, by);
}

async function confirmation(stage, email) {
  return link(await stage.mail(email, (mail) => mail.text.includes("/s/"), "the mail that asks for a confirmation"), "/s/");
}

export const PAGES = [
  { name: "subscribe-list", heading: "home_title", open: (visitor, stage, lang) => visitor.open("/subscribe", lang) },
  { name: "subscribe", form: true, open: (visitor, stage, lang) => visitor.open(FORM, lang) },
  { name: "subscribe-one-topic", form: true, open: (visitor, stage, lang) => visitor.open("/subscribe/letter", lang) },
  { name: "subscribe-nowhere", heading: "not_found_title", status: 404, open: (visitor, stage, lang) => visitor.open("/subscribe/nowhere", lang) },
  {
    name: "subscribe-mistakes", form: true,
    status: 422,
    open: async (visitor, stage, lang) => {
      await visitor.open(FORM, lang);
      await visitor.fill("input[name=email]", "mei(at)tea", "click");
      await visitor.press(SUBMIT, "click");
    },
  },
  {
    name: "subscribe-thanks", form: true,
    heading: "subscribe_thanks_title",
    open: (visitor, stage, lang) => subscribe(visitor, stranger(), { lang }),
  },
  {
    name: "subscribe-wait", form: true,
    heading: "subscribe_prove_title",
    site: "guarded",
    policy: { script: true },
    open: (visitor, stage, lang) => subscribe(visitor, stranger(), { lang }),
  },
  {
    name: "confirm-several",
    heading: "confirm_title",
    open: async (visitor, stage, lang) => {
      const email = stranger();
      await subscribe(visitor, email);
      await visitor.open(await confirmation(stage, email), lang);
    },
  },
  {
    name: "confirmed-question",
    heading: "confirmed_title",
    open: async (visitor, stage, lang) => {
      const email = stranger();
      await subscribe(visitor, email);
      await visitor.open(await confirmation(stage, email), lang);
      await visitor.press("button[name=confirm]", "click");
    },
  },
];

const both = (way) => ["keys", "click"].map((by) => ({ ...way, name: `${way.name}, by ${by}`, run: (visitor, stage) => way.run(visitor, stage, by) }));

export const WAYS = [
  ...both({
    name: "in by a form, a mail and its button, then one question",
    run: async (visitor, stage, by) => {
      const email = stranger();
      await subscribe(visitor, email, { by });
      for (const topic of ["tea-letter", "offers"]) same(await stage.standing(email, topic), "pending", "before the confirmation");
      const address = await confirmation(stage, email);
      await visitor.open(address);
      await visitor.open(address);
      same(await stage.standing(email, "tea-letter"), "pending", "a visit confirms nothing");
      await visitor.press("button[name=confirm]", by);
      for (const topic of ["tea-letter", "offers"]) same(await stage.standing(email, topic), "subscribed", "after the button");
      if (by === "click") await visitor.page.select('select[name="f.city"]', "Taipei");
      else {
        await visitor.tabTo('select[name="f.city"]');
        await visitor.page.keyboard.type("Taip");
      }
      await visitor.press("main form button:not([name])", by);
      const shown = await stage.optin("contact", "show", email);
      same([shown.attributes.city, shown.first_name ?? shown.attributes.first_name ?? "Mei"], ["Taipei", "Mei"], "what they told us");
    },
  }),
  {
    name: "a form with mistakes keeps what was typed, and is sent again",
    run: async (visitor, stage) => {
      const email = stranger();
      await visitor.open(FORM);
      await fillIn(visitor, "mei(at)tea", { by: "keys", topics: ["tea-letter"] });
      await visitor.press(SUBMIT, "keys");
      same(await visitor.page.$eval("input[name=email]", (input) => [input.value, input.getAttribute("aria-invalid")]), ["mei(at)tea", "true"], "the field");
      same(await visitor.page.$eval('input[name=topic][value="tea-letter"]', (box) => box.checked), true, "the tick");
      await visitor.page.$eval("input[name=email]", (input) => input.select?.());
      await visitor.page.click("input[name=email]", { count: 3 });
      await visitor.page.keyboard.type(email);
      await visitor.press(SUBMIT, "keys");
      same(await stage.standing(email, "tea-letter"), "pending", "after the second try");
    },
  },
  {
    name: "in by a form that asks for a proof of work, with script",
    site: "guarded",
    script: true,
    run: async (visitor, stage) => {
      const email = stranger();
      await visitor.open(FORM);
      await fillIn(visitor, email);
      await visitor.press(SUBMIT, "click");
      same(await visitor.heading(), stage.words("en", "subscribe_thanks_title"), "the page after it");
      same(await stage.standing(email, "tea-letter"), "pending", "the browser has done the work");
    },
  },
  {
    name: "in by a form that asks for a proof of work, without script: by waiting",
    site: "guarded",
    run: async (visitor, stage) => {
      const email = stranger();
      await visitor.open(FORM, "en");
      await fillIn(visitor, email);
      await visitor.press(SUBMIT, "click");
      same(await visitor.heading(), stage.words("en", "subscribe_prove_title"), "first the wait");
      await visitor.press(SUBMIT, "keys");
      same(await stage.standing(email, "tea-letter").catch(() => "none"), "none", "too early");
      const seconds = Number((await visitor.text()).match(/(\d+) (?:more )?seconds/)[1]);
      await pause((seconds + 1) * 1000);
      await visitor.press(SUBMIT, "keys");
      same(await visitor.heading(), stage.words("en", "subscribe_thanks_title"), "after the wait");
      same(await stage.standing(email, "tea-letter"), "pending", "after the wait");
    },
  },
];
