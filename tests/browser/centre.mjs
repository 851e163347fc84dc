// Ways down and the preference centre: less instead of nothing, the reason afterwards, every choice.
import { link, same } from "./stage.mjs";
import { leaveByPage } from "./ways.mjs";

const TOPIC = "tea-letter";

export const PAGES = [
  {
    name: "less-weekly",
    heading: "less_saved_title",
    open: async (visitor, stage, lang) => {
      await visitor.open(link((await stage.person()).letter, "/u/"), lang);
      await visitor.press("button[name=often][value=weekly]", "click");
    },
  },
  {
    name: "less-wrong-day",
    status: 422,
    open: async (visitor, stage, lang) => {
      await visitor.open(link((await stage.person()).letter, "/u/"), lang);
      // What a browser without date fields sends.
      await visitor.page.$eval("#day", (day) => Object.assign(day, { type: "text", value: "2001-01-01" }));
      await visitor.press("button[name=pause][value=day]", "click");
    },
  },
  {
    name: "reason-thanks",
    heading: "why_done_title",
    open: async (visitor, stage, lang) => {
      await leaveByPage(visitor, (await stage.person()).letter, { lang });
      await visitor.use("input[name=reason][value=too_many]", "click");
      await visitor.press("form.why button", "click");
    },
  },
  {
    name: "preferences-choices-saved",
    heading: "preferences_title",
    open: async (visitor, stage, lang) => {
      await visitor.open(link((await stage.person()).letter, "/p/"), lang);
      await visitor.page.select('select[name="often.all"]', "monthly");
      await visitor.page.select('select[name="pause.all"]', "14");
      await visitor.use("input[name=tracking][value=none]", "click");
      await visitor.use("input[name=profiling]", "click");
      await visitor.press("button[name=save]", "click");
    },
  },
];

const both = (way) => ["keys", "click"].map((by) => ({ ...way, name: `${way.name}, by ${by}`, run: (visitor, stage) => way.run(visitor, stage, by) }));

// Chooses in a select, by its arrow keys or at once.
async function choose(visitor, selector, value, by) {
  if (by === "click") return visitor.page.select(selector, value);
  await visitor.tabTo(selector);
  const steps = await visitor.page.$eval(
    selector,
    (select, value) => [...select.options].findIndex((option) => option.value === value) - select.selectedIndex,
    value,
  );
  for (let step = 0; step < Math.abs(steps); step++) await visitor.page.keyboard.press(steps > 0 ? "ArrowDown" : "ArrowUp");
  same(await visitor.page.$eval(selector, (select) => select.value), value, selector);
}

export const WAYS = [
  ...both({
    name: "less instead of nothing: once a week, then a pause",
    run: async (visitor, stage, by) => {
      const { email, letter } = await stage.person();
      await visitor.open(link(letter, "/u/"));
      await visitor.press("button[name=often][value=weekly]", by);
      same(await stage.standing(email, TOPIC), "subscribed", "they stay");
      await visitor.open(link(letter, "/u/"));
      await visitor.press("button[name=pause][value='14']", by);
      same(await stage.standing(email, TOPIC), "paused", "they pause");
      same((await stage.history(email)).map((entry) => entry.action), ["changed", "paused"], "the ledger");
    },
  }),
  ...both({
    name: "a pause until a day",
    run: async (visitor, stage, by) => {
      const { email, letter } = await stage.person();
      await visitor.open(link(letter, "/u/"));
      const day = new Date(Date.now() + 40 * 86_400_000).toISOString().slice(0, 10);
      const [year, month, date] = day.split("-");
      // On its first part, the month.
      if (by === "click") await visitor.page.click("#day", { offset: { x: 20, y: 22 } });
      await visitor.tabTo("#day");
      await visitor.page.keyboard.type(`${month}${date}${year}`);
      same(await visitor.page.$eval("#day", (input) => input.value), day, "the date field");
      await visitor.press("button[name=pause][value=day]", by);
      same(await stage.standing(email, TOPIC), "paused", "they pause");
    },
  }),
  ...both({
    name: "out, and the reason afterwards",
    run: async (visitor, stage, by) => {
      const { email, letter } = await stage.person();
      await leaveByPage(visitor, letter, { by });
      same(await stage.standing(email, TOPIC), "unsubscribed", "before any reason");
      await visitor.use("input[name=reason][value=too_many]", by);
      await visitor.fill("textarea[name=comment]", "Three a day!", by);
      await visitor.press("form.why button", by);
      same(await stage.standing(email, TOPIC), "unsubscribed", "after it");
    },
  }),
  ...both({
    name: "every choice of the preference centre",
    run: async (visitor, stage, by) => {
      const { email, letter } = await stage.person();
      await visitor.open(link(letter, "/p/"), "en");
      const [tea] = await visitor.page.$$eval("input[name=topic]", (boxes) =>
        boxes.filter((box) => box.closest("label").innerText.includes("Tea letter")).map((box) => box.value),
      );
      await choose(visitor, `select[name="often.${tea}"]`, "weekly", by);
      await choose(visitor, `select[name="pause.${tea}"]`, "14", by);
      await choose(visitor, "select[name=language]", "zh-Hant", by);
      if (by === "keys") {
        // A group of radio buttons is one stop; its arrow keys choose.
        await visitor.tabTo("input[name=tracking]:checked");
        while (!(await visitor.focused("input[name=tracking][value=none]"))) await visitor.page.keyboard.press("ArrowDown");
      } else await visitor.use("input[name=tracking][value=none]", by);
      await visitor.use("input[name=profiling]", by);
      await visitor.press("button[name=save]", by);
      same(await stage.standing(email, TOPIC), "paused", "the pause");
      // How often, the pause, and three choices that are about the person.
      same((await stage.history(email)).map((entry) => entry.action).sort(), ["changed", "changed", "changed", "changed", "paused"], "the ledger");
      // What was chosen is what the page shows, in the language that was chosen.
      await visitor.open(link(letter, "/p/"));
      same(await visitor.heading(), stage.words("zh-Hant", "preferences_title"), "the language");
      same(await visitor.page.$eval("input[name=tracking]:checked", (radio) => radio.value), "none", "tracking");
      same(await visitor.page.$eval(`select[name="often.${tea}"]`, (select) => select.value), "weekly", "how often");
    },
  }),
];
