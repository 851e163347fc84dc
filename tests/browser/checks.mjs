// What every page must keep, whatever it says.
import fs from "node:fs";
import { createRequire } from "node:module";
import { SIZES } from "./browser.mjs";

const AXE = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
// WCAG 2.2 target size (enhanced, 2.5.5), CSS pixels.
const TARGET = 44;

// What the policy of our pages allows; anything else needs a reason here.
export function policyProblems(policy, { script = false } = {}) {
  if (!policy) return ["no Content-Security-Policy"];
  const rules = new Map(policy.split(";").map((rule) => rule.trim().split(/\s+/)).map(([name, ...values]) => [name, values]));
  const problems = [];
  const exactly = (name, wanted) => {
    if (rules.get(name)?.join(" ") !== wanted) problems.push(`policy: ${name} is ${rules.get(name)?.join(" ") ?? "missing"}, not ${wanted}`);
  };
  exactly("default-src", "'none'");
  exactly("base-uri", "'none'");
  exactly("form-action", "'self'");
  exactly("frame-ancestors", "'none'");
  const hashed = (name) => {
    for (const value of rules.get(name) ?? []) if (!/^'sha256-[A-Za-z0-9+/=]+'$/.test(value)) problems.push(`policy: ${name} ${value}`);
  };
  hashed("style-src");
  if (rules.has("img-src")) exactly("img-src", "data:");
  // Our one script is a file of this site.
  if (script) exactly("script-src", "'self'");
  const known = ["default-src", "base-uri", "form-action", "frame-ancestors", "style-src", "img-src", ...(script ? ["script-src"] : [])];
  for (const name of rules.keys()) if (!known.includes(name)) problems.push(`policy: ${name} is allowed something`);
  return problems;
}

// Runs in the page: its frame, its words, its controls.
function anatomy(target) {
  const problems = [];
  const shown = (element) => element.checkVisibility() && !element.closest(".trap,.hidden");
  const name = (element) => element.outerHTML.replace(/\s+/g, " ").slice(0, 90);
  if (document.querySelectorAll("h1").length !== 1) problems.push("not exactly one h1");
  if (document.querySelectorAll("main").length !== 1) problems.push("not exactly one main");
  const levels = [...document.querySelectorAll("h1,h2,h3,h4")].filter(shown).map((heading) => Number(heading.tagName[1]));
  levels.forEach((level, at) => {
    if (at > 0 && level > levels[at - 1] + 1) problems.push(`a heading of level ${level} follows one of level ${levels[at - 1]}`);
  });
  const heading = document.querySelector("h1")?.innerText.trim() ?? "";
  // Chromium puts a thin space between Han and Latin letters only on the screen; the texts are the same.
  if (!heading || !document.title.startsWith(document.querySelector("h1").textContent.trim())) problems.push(`the title “${document.title}” does not begin with the heading “${heading}”`);
  if (!document.querySelector('meta[name="robots"][content*="noindex"]')) problems.push("no robots noindex");
  if (document.querySelector("[style],[onclick],[onload],[onsubmit]")) problems.push("an attribute that the policy forbids");
  const left = document.body.innerText.match(/\{[a-z_]+\}/);
  if (left) problems.push(`${left[0]} is not filled in`);
  const controls = [...document.querySelectorAll("a[href],button,input:not([type=hidden]),select,textarea,summary")].filter(shown);
  for (const control of controls) {
    // A link in the middle of a sentence is as high as its line (2.5.5 excepts it); others are targets by themselves.
    const inline = control.tagName === "A" && getComputedStyle(control).display === "inline";
    const box = (control.closest("label") ?? control).getBoundingClientRect();
    if (!inline && box.height < target - 0.5) problems.push(`only ${Math.round(box.height)} px high: ${name(control)}`);
    const labelled = control.labels?.length || control.getAttribute("aria-label") || control.getAttribute("aria-labelledby");
    if (["INPUT", "SELECT", "TEXTAREA"].includes(control.tagName) && !labelled) problems.push(`no label: ${name(control)}`);
  }
  for (const id of [...document.querySelectorAll("[aria-describedby],[aria-labelledby],[for]")]
    .flatMap((element) => [element.getAttribute("aria-describedby"), element.getAttribute("aria-labelledby"), element.getAttribute("for")])
    .filter(Boolean)
    .flatMap((ids) => ids.split(/\s+/)))
    if (!document.getElementById(id)) problems.push(`nothing has the id ${id}`);
  try {
    if (localStorage.length + sessionStorage.length > 0) problems.push("something is kept in the browser's storage");
  } catch {
    // A page in an origin of its own has no storage at all.
  }
  return problems;
}

// Runs in the page: does it scroll sideways, and because of what?
export function overflow() {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const wide = [...document.querySelectorAll("main *")].filter((element) => element.getBoundingClientRect().right > width + 1);
  return [`scrolls sideways (${document.documentElement.scrollWidth} > ${width} px): ${wide.at(-1)?.outerHTML.slice(0, 90)}`];
}

export async function audit(page, options = {}) {
  // The page was loaded without script. It stays as it is; only the checker runs now.
  await page.setJavaScriptEnabled(true);
  await page.evaluate(AXE);
  const found = await page.evaluate((options) => axe.run(document, { resultTypes: ["violations"], ...options }), options);
  return found.violations.map((violation) => {
    const where = violation.nodes.slice(0, 3).map((node) => `${node.html.slice(0, 110)} ${node.any[0]?.message ?? ""}`);
    return `axe ${violation.impact}: ${violation.id}: ${violation.help}\n      ${where.join("\n      ")}`;
  });
}

// Tabs through the page: every control is reached, in the order of the page, and the focus can be seen.
async function focusProblems(visitor) {
  const { page } = visitor;
  const problems = [];
  const expected = await page.evaluate(() => {
    const shown = (element) => element.checkVisibility() && !element.closest(".trap") && !element.disabled && element.tabIndex >= 0;
    const all = [...document.querySelectorAll("a[href],button,input:not([type=hidden]),select,textarea,summary")].filter(shown);
    // Radio buttons of a group are one stop.
    const first = all.filter((element) => {
      if (element.type !== "radio") return true;
      const group = all.filter((other) => other.type === "radio" && other.name === element.name && other.form === element.form);
      return element === (group.find((other) => other.checked) ?? group[0]);
    });
    first.forEach((element, at) => (element.dataset.stop = at));
    document.activeElement?.blur?.();
    return first.length;
  });
  for (let at = 0; at < expected; at++) {
    let stop;
    // A date has several stops of its own.
    for (let press = 0; press < 6; press++) {
      await page.keyboard.press("Tab");
      stop = await page.evaluate(() => {
        const element = document.activeElement;
        const ring = [element, element.closest("label")].filter(Boolean).some((shown) => {
          const style = getComputedStyle(shown);
          return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
        });
        const box = element.getBoundingClientRect();
        const inside = box.bottom > 0 && box.top < innerHeight;
        return { at: Number(element.dataset.stop ?? -1), ring, inside, html: element.outerHTML.slice(0, 90) };
      });
      if (stop.at >= at) break;
    }
    if (stop.at !== at) return [...problems, `stop ${at} of the Tab key is ${stop.html}`];
    if (!stop.ring) problems.push(`the focus cannot be seen on ${stop.html}`);
    if (!stop.inside) problems.push(`the focus is outside the window on ${stop.html}`);
  }
  return problems;
}

// Looks at the page a visitor is on, in every size and colour; answers what is wrong with it.
// `lang`: of the page; `status`: of its answer; `policy`: what it may be allowed; `mail`: it is a mail shown
// as a page, which has a frame of its own.
export async function examine(visitor, { name, lang, status = 200, policy = {}, mail = false, form = false, pictures, thorough = lang === "en" }) {
  const { page, last } = visitor;
  const problems = [];
  if (last.status() !== status) problems.push(`answered ${last.status()}, not ${status}`);
  const headers = last.headers();
  // The address of a form is no secret, and its browser says where it comes from only if it may (Fetch, 3.2).
  const referrers = form ? ["no-referrer", "same-origin"] : ["no-referrer"];
  if (!referrers.includes(headers["referrer-policy"])) problems.push(`referrer-policy is ${headers["referrer-policy"]}`);
  const wanted = { "cache-control": "no-store", "x-robots-tag": "noindex, nofollow", "x-content-type-options": "nosniff" };
  for (const [header, value] of Object.entries(wanted)) if (headers[header] !== value) problems.push(`${header} is ${headers[header]}`);
  if (!mail) problems.push(...policyProblems(headers["content-security-policy"], policy));
  const found = await page.evaluate(() => document.documentElement.lang);
  if (found !== lang) problems.push(`its language is ${found}, not ${lang}`);
  const picture = (kind) => page.screenshot({ path: `${pictures}/${name}-${lang}-${kind}.png`, fullPage: true, optimizeForSpeed: true });

  await visitor.resize(SIZES.phone);
  if (!mail) {
    problems.push(...(await page.evaluate(anatomy, TARGET)));
    if (thorough) problems.push(...(await focusProblems(visitor)));
    await page.evaluate(() => document.activeElement?.blur?.());
  }
  problems.push(...(await page.evaluate(overflow)));
  await picture("320");
  // A mail is a table in somebody else's window: it has no landmarks of its own.
  problems.push(...(await audit(page, mail ? { rules: { region: { enabled: false }, "landmark-one-main": { enabled: false } } } : {})));
  if (thorough) {
    await visitor.dark();
    await picture("320-dark");
    problems.push(...(await audit(page, { runOnly: ["color-contrast"] })).map((problem) => `dark: ${problem}`));
    await visitor.dark(false);
    // Text of 200 % (WCAG 1.4.4), on a window of a small desk.
    await visitor.resize({ width: 640, height: 900 });
    await page.evaluate(() => (document.documentElement.style.fontSize = "200%"));
    problems.push(...(await page.evaluate(overflow)).map((problem) => `text of 200 %: ${problem}`));
    await page.evaluate(() => (document.documentElement.style.fontSize = ""));
  }
  await visitor.resize(SIZES.desk);
  problems.push(...(await page.evaluate(overflow)));
  await picture("1280");
  await page.setJavaScriptEnabled(visitor.script);
  return problems.map((problem) => `${name} (${lang}): ${problem}`);
}
