// The beacon in a browser that keeps what it keeps: `node beacon.mjs STAGE.json first|second`, called by
// tests/it/beacon.rs. The second call is the next day, in the same browser.
import fs from "node:fs";
import http from "node:http";
import { setTimeout as pause } from "node:timers/promises";
import puppeteer from "puppeteer-core";
import { chromium } from "./browser.mjs";

// Milliseconds that an answer may take, and that we wait to see that nothing is sent.
const PATIENCE = 15_000;
const SILENCE = 700;

const stage = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const phase = process.argv[3];
const problems = [];
const same = (found, wanted, what) => {
  const [left, right] = [found, wanted].map((value) => JSON.stringify(value));
  if (left !== right) problems.push(`${what}: ${left}, not ${right}`);
};

// The shop: on every path a page with the script.
const asked = [];
const shop = http.createServer((request, response) => {
  asked.push(request.url);
  response.setHeader("Content-Type", "text/html; charset=utf-8");
  const policy = `default-src 'none'; script-src ${stage.site}; connect-src ${stage.site}`;
  response.setHeader("Content-Security-Policy", policy);
  response.end(`<!doctype html><title>Shop ${request.url.split("?")[0]}</title><script async src="${stage.site}/b.js"></script><h1>Tea</h1>`);
});
await new Promise((done) => shop.listen(stage.shop_port, "127.0.0.1", done));

const args = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"];
const browser = await puppeteer.launch({ executablePath: chromium(), args, userDataDir: stage.profile, headless: true });

// A page, and the answers to what its script sends. `as` is what the browser says of itself.
async function open(context, url, as = {}) {
  const page = await context.newPage();
  const answers = [];
  page.on("response", (response) => {
    if (response.url() === `${stage.site}/b`) answers.push(response.status());
  });
  page.on("pageerror", (error) => problems.push(`script: ${error.message}`));
  page.on("console", (line) => {
    if (["error", "warn"].includes(line.type()) && !line.text().includes("favicon")) problems.push(`console: ${line.text()}`);
  });
  await page.evaluateOnNewDocument((as) => {
    for (const [name, value] of Object.entries(as)) Object.defineProperty(Navigator.prototype, name, { get: () => value });
  }, { webdriver: false, ...as });
  await page.goto(url, { waitUntil: "load" });
  await page.waitForFunction("window.optin", { timeout: PATIENCE });
  return { page, answers };
}

async function answered({ answers }, wanted, what) {
  const deadline = Date.now() + PATIENCE;
  while (answers.length < wanted.length && Date.now() < deadline) await pause(20);
  await pause(SILENCE);
  same(answers, wanted, what);
}

const stored = (page) => page.evaluate(() => [localStorage.length + sessionStorage.length, document.cookie, localStorage.getItem("optin.device")]);

if (phase === "first") {
  // Who agreed to nothing: one visit, and nothing stays.
  const quiet = await browser.createBrowserContext();
  const visit = await open(quiet, stage.click.quiet);
  await answered(visit, [204], "a visit by a letter");
  same(await visit.page.evaluate(() => location.pathname + location.search + location.hash), "/oolong?a=%2F+b&c#leaf?x=1", "the address");
  same(asked[0].startsWith("/oolong?a=%2F+b&c&oc="), true, `what the shop was asked for: ${asked[0]}`);
  same(await stored(visit.page), [0, "", null], "nothing is stored");
  await visit.page.evaluate(() => { history.pushState(null, "", "/pushed?secret=1"); optin.visit(); });
  await answered(visit, [204, 204], "a page without a load");
  const next = await open(quiet, `${stage.shop}/green`);
  await answered(next, [], "the next page knows nobody");
  same((await quiet.cookies()).length, 0, "cookies");
  await quiet.close();

  // Who says that they do not want it, and programs.
  for (const as of [{ globalPrivacyControl: true }, { doNotTrack: "1" }, { webdriver: true }]) {
    const context = await browser.createBrowserContext();
    const visit = await open(context, stage.click.quiet, as);
    await visit.page.evaluate(() => optin.consent(true));
    await answered(visit, [], `nothing is sent by ${JSON.stringify(as)}`);
    same(await visit.page.evaluate(() => location.search), "?a=%2F+b&c", "the address is cleaned all the same");
    same(await stored(visit.page), [0, "", null], "nothing is stored");
    await context.close();
  }

  // Who agrees: the browser is theirs from now on.
  const agreeing = await open(browser, stage.click.agreeing);
  await answered(agreeing, [204], "before they agree");
  same(await stored(agreeing.page), [0, "", null], "before they agree");
  await agreeing.page.evaluate(() => optin.consent(true));
  await answered(agreeing, [204, 200], "they agree");
  const [count, cookie, device] = await stored(agreeing.page);
  same([count, cookie, /^[0-9a-f]{32}$/.test(device)], [1, "", true], `a number of this browser (${device})`);
} else {
  // A day later, without a letter.
  const visit = await open(browser, `${stage.shop}/green?from=search`);
  await answered(visit, [204], "a visit on the second day");
  await visit.page.evaluate(() => optin.consent(false));
  await answered(visit, [204, 204], "they agree no more");
  same(await stored(visit.page), [0, "", null], "nothing stays");
  const next = await open(browser, `${stage.shop}/never`);
  await answered(next, [], "nobody is known any more");
}

await browser.close();
shop.close();
for (const problem of problems) console.log(`- ${problem}`);
process.exitCode = problems.length > 0 ? 1 : 0;
