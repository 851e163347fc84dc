// One Chromium for the whole run, and visitors in it: each a private window of its own, so that
// nothing one person leaves behind (a cookie, a store) could help the next.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import puppeteer from "puppeteer-core";

// A page that is not there after so long has failed, also on a busy machine. Milliseconds.
const PATIENCE = 20_000;
// More Tab presses than any page has places to stop.
const MOST_STOPS = 120;
export const SIZES = { phone: { width: 320, height: 640 }, desk: { width: 1280, height: 900 } };

export function chromium() {
  for (const name of ["chromium", "chromium-browser", "google-chrome"])
    for (const folder of (process.env.PATH ?? "").split(":")) {
      const file = path.join(folder, name);
      if (fs.existsSync(file)) return file;
    }
  throw new Error("no Chromium here: `./test` installs what the tests need");
}

export async function launch() {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "optin-chromium-"));
  const args = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars", "--lang=en", "--force-color-profile=srgb"];
  const browser = await puppeteer.launch({ executablePath: chromium(), args, userDataDir: profile, headless: true, protocolTimeout: PATIENCE });
  const close = async () => {
    await browser.close();
    fs.rmSync(profile, { recursive: true, force: true });
  };
  return { browser, close };
}

// A person at a browser, without script unless they ask for it.
export class Visitor {
  static async arrive(browser, site, { script = false, size = SIZES.phone } = {}) {
    const context = await browser.createBrowserContext();
    const page = await context.newPage();
    const visitor = new Visitor(context, page, site, script);
    page.setDefaultTimeout(PATIENCE);
    await page.setJavaScriptEnabled(script);
    await visitor.resize(size);
    await visitor.dark(false);
    // Several windows work at a time; each believes that it is the one in front, or nothing has the focus.
    await (await page.createCDPSession()).send("Emulation.setFocusEmulationEnabled", { enabled: true });
    return visitor;
  }

  constructor(context, page, site, script) {
    Object.assign(this, { context, page, site, script, complaints: [], last: null, expected: new Set() });
    page.on("console", (line) => {
      // Chromium reports every answer of 400 and up here; which answer a page must give is checked by itself.
      if (["error", "warn"].includes(line.type()) && !/the server responded with a status of/.test(line.text())) {
        this.complaints.push(`console: ${line.text()}`);
      }
    });
    page.on("pageerror", (error) => this.complaints.push(`script: ${error.message}`));
    page.on("request", (request) => {
      const url = new URL(request.url());
      if (url.protocol !== "data:" && url.origin !== new URL(site).origin) this.complaints.push(`asks a foreign host: ${request.url()}`);
    });
    page.on("requestfailed", (request) => this.complaints.push(`request failed: ${request.url()} ${request.failure()?.errorText}`));
    page.on("response", (response) => {
      if (response.headers()["set-cookie"]) this.complaints.push(`sets a cookie: ${response.url()}`);
      if (response.request().isNavigationRequest() && response.request().frame() === page.mainFrame()) this.last = response;
    });
  }

  async resize(size) {
    await this.page.setViewport({ ...size, deviceScaleFactor: 1 });
  }

  async dark(on = true) {
    // Without motion, so that nothing is looked at on its way from one colour to the other.
    const still = { name: "prefers-reduced-motion", value: "reduce" };
    await this.page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: on ? "dark" : "light" }, still]);
  }

  // Opens an address of the site: a path, or the whole address as it stands in a mail.
  async open(address, lang) {
    const url = new URL(address, this.site);
    if (lang) url.searchParams.set("lang", lang);
    await this.page.goto(url.href, { waitUntil: "load" });
    return this;
  }

  text() {
    return this.page.$eval("body", (body) => body.innerText);
  }

  heading() {
    return this.page.$eval("h1", (heading) => heading.innerText.trim());
  }

  // What the focus is on.
  focused(selector) {
    return this.page.evaluate((selector) => document.activeElement?.matches(selector) ?? false, selector);
  }

  // Goes there as somebody without a mouse does.
  async tabTo(selector) {
    if ((await this.page.$(selector)) === null) throw new Error(`nothing here fits ${selector}:\n${await this.text()}`);
    for (let stop = 0; stop < MOST_STOPS; stop++) {
      if (await this.focused(selector)) return;
      await this.page.keyboard.press("Tab");
    }
    throw new Error(`the Tab key never comes to ${selector}`);
  }

  // Uses a control by pointer or by key; a checkbox or radio by Space, a button or link by Enter.
  async use(selector, by, { leaves = false } = {}) {
    const act = async () => {
      if (by === "click") return this.page.click(selector);
      await this.tabTo(selector);
      const ticks = await this.page.$eval(selector, (element) => ["checkbox", "radio"].includes(element.type));
      await this.page.keyboard.press(ticks ? "Space" : "Enter");
    };
    if (!leaves) return act();
    await Promise.all([this.page.waitForNavigation({ waitUntil: "load" }), act()]);
  }

  // Presses what sends a form or follows a link, and waits for the page after it.
  press(selector, by) {
    return this.use(selector, by, { leaves: true });
  }

  async fill(selector, text, by) {
    if (by === "click") await this.page.click(selector);
    else await this.tabTo(selector);
    await this.page.keyboard.type(text);
  }

  async leave() {
    const cookies = await this.context.cookies();
    if (cookies.length > 0) this.complaints.push(`cookies: ${cookies.map((cookie) => cookie.name)}`);
    await this.context.close();
    return this.complaints;
  }
}
