// The browser tests. `node run.mjs STAGE.json` is called by tests/it/browser.rs, which builds the stage;
// `ONLY='unsub|goodbye'` runs what fits that pattern.
import fs from "node:fs";
import path from "node:path";
import { launch, SIZES, Visitor } from "./browser.mjs";
import { examine } from "./checks.mjs";
import { gallery } from "./gallery.mjs";
import * as centre from "./centre.mjs";
import * as forms from "./forms.mjs";
import * as pages from "./pages.mjs";
import * as rights from "./rights.mjs";
import { Stage } from "./stage.mjs";
import * as ways from "./ways.mjs";

const WAYS = [ways, forms, centre, rights].flatMap((file) => file.WAYS);
const PAGES = [pages, forms, centre, rights].flatMap((file) => file.PAGES);

// Windows at work at the same time: the test machine has few cores.
const WINDOWS = 3;

const stage = new Stage(process.argv[2]);
const only = new RegExp(process.env.ONLY ?? "");
const { browser, close } = await launch();
const problems = [];
stage.complain = (complaints) => problems.push(...complaints);
stage.visit = (options = {}) => Visitor.arrive(browser, stage.sites[options.site ?? "site"], options);

// Languages are read as the program's own files are: `key = "text"` a line.
stage.languages = Object.fromEntries(
  stage.tags.map((tag) => {
    const file = fs.readFileSync(path.join(stage.repository, "languages", `${tag}.toml`), "utf8");
    const texts = [...file.matchAll(/^(\w+) = (".*")$/gm)].map(([, key, text]) => [key, JSON.parse(text)]);
    return [tag, Object.fromEntries(texts)];
  }),
);

// A heading says what the language file says, whatever was filled in.
function says(heading, text) {
  const pattern = text.replace(/[.*+?^$()|[\]\\]/g, "\\$&").replace(/\{\w+\}/g, ".+");
  return new RegExp(`^${pattern}$`, "u").test(heading);
}

async function page(entry, lang) {
  const visitor = await stage.visit({ site: entry.site, script: entry.script });
  await entry.open(visitor, stage, lang);
  const { name } = entry;
  if (entry.heading) {
    const heading = await visitor.page.$eval("h1", (heading) => heading.textContent.trim());
    if (!says(heading, stage.words(lang, entry.heading))) problems.push(`${name} (${lang}): the heading is “${heading}”, not ${entry.heading}`);
  }
  problems.push(...(await examine(visitor, { ...entry, lang, pictures: stage.pictures })));
  problems.push(...(await visitor.leave()).map((complaint) => `${name} (${lang}): ${complaint}`));
}

async function way(entry) {
  const visitor = await stage.visit({ site: entry.site, script: entry.script, size: entry.name.includes("keys") ? SIZES.desk : SIZES.phone });
  await entry.run(visitor, stage);
  problems.push(...(await visitor.leave()).map((complaint) => `${entry.name}: ${complaint}`));
}

const tasks = [
  ...(stage.pages ? [{ name: "gallery", run: async () => problems.push(...(await gallery(browser, stage))) }] : []),
  ...WAYS.map((entry) => ({ name: entry.name, run: () => way(entry) })),
  ...(stage.pages ? PAGES : []).flatMap((entry) =>
    (entry.tags ?? stage.tags).map((lang) => ({ name: `${entry.name} (${lang})`, run: () => page(entry, lang) })),
  ),
].filter((task) => only.test(task.name));

// All pictures on one page, for whoever looks at them.
function contactSheet() {
  const files = fs.readdirSync(stage.pictures).filter((file) => file.endsWith(".png")).sort();
  const figures = files.map((file) => `<figure><img src="${file}" alt=""><figcaption>${file.slice(0, -4)}</figcaption></figure>`);
  const style = "body{display:flex;flex-wrap:wrap;gap:12px;align-items:start;font:12px sans-serif}figure{margin:0}img{width:240px;border:1px solid}";
  fs.writeFileSync(path.join(stage.pictures, "index.html"), `<!doctype html><meta charset="utf-8"><title>Pages</title><style>${style}</style>${figures.join("")}`);
}

const started = Date.now();
let next = 0;
let ran = 0;
async function window() {
  while (next < tasks.length) {
    const task = tasks[next++];
    const start = Date.now();
    try {
      await task.run();
    } catch (error) {
      problems.push(`${task.name}: ${error.stack}`);
    }
    ran++;
    if (process.env.TIMES) console.log(`${Date.now() - start} ms ${task.name}`);
  }
}
await Promise.all(Array.from({ length: WINDOWS }, window));
await close();
if (stage.pages) contactSheet();
for (const problem of problems) console.log(`- ${problem}`);
console.log(`${ran} scenarios in ${Math.round((Date.now() - started) / 1000)} s, ${problems.length} problems`);
process.exitCode = problems.length > 0 || ran === 0 ? 1 : 0;
